//! What is said while a node waits to belong to a cluster: how far it is, and who does not answer.

use std::time::Duration;

use tokio::time::Instant;

use super::introduction::Survey;

/// How often it is said.
const INTERVAL: Duration = Duration::from_secs(3);
/// How many silent addresses are named.
const NAMED_MAX: usize = 8;

/// Says it, not too often.
#[derive(Default)]
pub(super) struct Waiting {
    told_at: Option<Instant>,
}

impl Waiting {
    /// Says how far this is, unless that was said a moment ago.
    pub(super) fn tell(&mut self, survey: &Survey, progress: impl FnOnce() -> String) {
        if self.told_at.is_some_and(|told_at| told_at.elapsed() < INTERVAL) {
            return;
        }
        self.told_at = Some(Instant::now());
        let silent = silent(survey);
        tracing::info!("waiting: {}; {silent}", progress());
    }
}

fn silent(survey: &Survey) -> String {
    if survey.silent.is_empty() {
        return "all addresses answer".to_owned();
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
    use super::*;

    #[test]
    fn silent_addresses_are_named_and_many_are_counted() {
        let survey = |count: usize| Survey {
            silent: (0..count).map(|index| (format!("a:{index}"), None)).collect(),
            ..Survey::default()
        };
        assert_eq!(silent(&survey(0)), "all addresses answer");
        assert_eq!(silent(&survey(1)), "no answer: a:0 did not answer in time");
        assert!(silent(&survey(20)).ends_with("; and 12 more"));
    }
}
