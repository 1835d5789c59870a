//! One layout per epoch: whoever works with an epoch, at whatever time, works with the same layout; and no
//! host goes back to an earlier one, not even over restarts.
//!
//! Source: Lamport et al., "Reconfiguring a State Machine" (2010): an agreed sequence of configurations.

use std::collections::BTreeMap;

use crate::run::Violation;

use super::observation::Observation;

/// Checks what hosts showed.
///
/// # Errors
/// The first host that showed another layout of an epoch, or an earlier epoch than before.
pub fn check(observations: &[Observation]) -> Result<(), Violation> {
    let mut of_epoch: BTreeMap<u64, &Observation> = BTreeMap::new();
    let mut last_of_host: BTreeMap<usize, &Observation> = BTreeMap::new();
    for seen in observations {
        let epoch = seen.layout.epoch();
        let first = *of_epoch.entry(epoch).or_insert(seen);
        if first.layout != seen.layout {
            let story = format!("epoch {epoch} is two layouts: {}, {}", side(first), side(seen));
            return Err(Violation::new("layout", story));
        }
        if let Some(last) = last_of_host.insert(seen.host, seen)
            && epoch < last.layout.epoch()
        {
            let before = last.layout.epoch();
            let story = format!("after epoch {before} of life {}: {}", last.life, side(seen));
            return Err(Violation::new("layout", story));
        }
    }
    Ok(())
}

fn side(seen: &Observation) -> String {
    let Observation { host, life, at_ms, layout, .. } = seen;
    format!("host {host} in life {life} at {at_ms} worked with {layout:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::observation::samples::{layout, seen};

    #[test]
    fn two_layouts_of_one_epoch_are_found_at_any_distance() {
        let history = |other| [seen(0, 1, layout(1, "a")), seen(0, 2, layout(2, "a")), seen(1, 9, other)];
        assert_eq!(check(&history(layout(1, "a"))), Ok(()));
        assert!(check(&history(layout(1, "b"))).is_err());
        assert!(check(&history(layout(2, "b"))).is_err());
    }

    #[test]
    fn an_epoch_that_falls_over_a_restart_is_found_and_another_hosts_delay_is_not() {
        let first = seen(0, 1, layout(2, "a"));
        let restarted = |epoch| Observation { life: 2, ..seen(0, 2, layout(epoch, "a")) };
        assert_eq!(check(&[first.clone(), restarted(2), seen(1, 3, layout(1, "a"))]), Ok(()));
        assert!(check(&[first, restarted(1)]).is_err());
    }
}
