//! What is said while a node waits to belong to a cluster: how far it is, and who does not answer.

use std::time::Duration;

use slipring_discovery::Discovery;
use tokio::time::Instant;

use super::introduction::Survey;

/// How often it is said.
const INTERVAL: Duration = Duration::from_secs(3);
/// How many silent addresses are named.
const NAMED_MAX: usize = 8;

/// Says it, not too often.
pub(super) struct Waiting {
    /// Where addresses come from.
    places: Vec<String>,
    told_at: Option<Instant>,
}

impl Waiting {
    pub(super) fn new(seeds: &dyn Discovery) -> Self {
        Self { places: seeds.places(), told_at: None }
    }

    /// Says how far this is, unless that was said a moment ago.
    pub(super) fn tell(&mut self, survey: &Survey, progress: impl FnOnce() -> String) {
        if self.told_at.is_some_and(|told_at| told_at.elapsed() < INTERVAL) {
            return;
        }
        self.told_at = Some(Instant::now());
        let silent = silent(survey, &self.places);
        tracing::info!("waiting: {}; {silent}", progress());
    }
}

fn silent(survey: &Survey, places: &[String]) -> String {
    if survey.silent.is_empty() {
        let places = if places.is_empty() { "the sources".to_owned() } else { places.join(" ") };
        return match (survey.answers.is_empty(), survey.has_met_itself) {
            (false, _) => "all addresses answer".to_owned(),
            (true, false) => format!("no address is known: {places} named nobody; is it written right?"),
            (true, true) => {
                format!("no address of another node is known: {places} named this one alone")
            }
        };
    }
    let name = |(address, reason): &(String, Option<String>)| match reason {
        Some(reason) => reason.clone(),
        None => format!("{address} did not answer in time"),
    };
    let named: Vec<String> = survey.silent.iter().take(NAMED_MAX).map(name).collect();
    let more = survey.silent.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    format!("no answer: {}{more}", named.join("; "))
}

#[cfg(test)]
mod tests {
    use slipring_membership::founding::Standing;
    use slipring_model::NodeId;

    use super::*;
    use crate::forming::introduction::Answer;

    #[test]
    fn silent_addresses_are_named_and_many_are_counted() {
        let survey = |count: usize| Survey {
            silent: (0..count).map(|index| (format!("a:{index}"), None)).collect(),
            ..Survey::default()
        };
        assert_eq!(silent(&survey(1), &[]), "no answer: a:0 did not answer in time");
        assert!(silent(&survey(20), &[]).ends_with("; and 12 more"));
    }

    #[test]
    fn where_nobody_was_found_the_places_are_named() {
        let places = ["dns://a:1".to_owned(), "registry://b:2/c".to_owned()];
        let told = |survey: Survey| silent(&survey, &places);
        let nobody = told(Survey::default());
        assert!(
            nobody.starts_with("no address is known: dns://a:1 registry://b:2/c named nobody"),
            "{nobody}"
        );
        let itself = told(Survey { has_met_itself: true, ..Survey::default() });
        assert!(itself.ends_with("named this one alone"), "{itself}");
        let standing = Standing::joiner(NodeId([1; 32]), 1);
        let answers = vec![Answer { address: "a:1".to_owned(), standing }];
        assert_eq!(
            told(Survey { answers, has_met_itself: true, ..Survey::default() }),
            "all addresses answer"
        );
    }
}
