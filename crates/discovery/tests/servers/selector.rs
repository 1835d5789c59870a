//! Label selectors as Kubernetes reads them: requirements that all hold, with commas between them.

use serde_json::Value;

/// One requirement on one label.
enum Requirement<'a> {
    Exists(&'a str),
    Missing(&'a str),
    In(&'a str, Vec<&'a str>),
    NotIn(&'a str, Vec<&'a str>),
}

/// Whether an object's labels are as the selector wants them.
pub(crate) fn selects(selector: &str, labels: &Value) -> bool {
    requirements(selector).into_iter().all(|requirement| requirement.holds(labels))
}

impl<'a> Requirement<'a> {
    fn read(text: &'a str) -> Self {
        if let Some((name, value)) = text.split_once("!=") {
            return Self::NotIn(name.trim(), vec![value.trim()]);
        }
        if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            return Self::In(name.trim(), vec![value.trim()]);
        }
        if let Some((head, values)) = text.split_once('(') {
            let values = values.trim_end_matches(')').split(',').map(str::trim).collect();
            return match head.split_whitespace().collect::<Vec<_>>().as_slice() {
                [name, "in"] => Self::In(name, values),
                [name, "notin"] => Self::NotIn(name, values),
                other => panic!("no selector: {other:?}"),
            };
        }
        text.strip_prefix('!').map_or(Self::Exists(text), |name| Self::Missing(name.trim()))
    }

    /// What is to be another value may also be none.
    fn holds(&self, labels: &Value) -> bool {
        let value = |name: &str| labels.get(name).and_then(Value::as_str);
        match self {
            Self::Exists(name) => value(name).is_some(),
            Self::Missing(name) => value(name).is_none(),
            Self::In(name, values) => value(name).is_some_and(|value| values.contains(&value)),
            Self::NotIn(name, values) => value(name).is_none_or(|value| !values.contains(&value)),
        }
    }
}

/// Commas within brackets are part of a requirement.
fn requirements(selector: &str) -> Vec<Requirement<'_>> {
    let mut depth = 0;
    let parts = selector.split(|letter| {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        letter == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).map(Requirement::read).collect()
}
