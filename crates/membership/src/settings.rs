//! What an operator may set about membership: how fast failures are seen, and what that costs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A setting outside its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} = {value} must lie in {low}..={high}")]
pub struct InvalidSettings {
    /// Which field.
    pub field: &'static str,
    /// What it holds.
    pub value: u64,
    /// The least it may hold.
    pub low: u64,
    /// The most it may hold.
    pub high: u64,
}

/// Membership's settings; every time is in milliseconds. All nodes of a cluster should have the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How often a node probes another one. Shorter sees failures sooner and sends more. 10 to 600,000.
    pub probe_interval_ms: u64,
    /// How long a probe waits for its answer before others are asked to probe, and as long again before the
    /// member is suspected. More than the slowest ordinary round trip. 1 to probe_interval_ms.
    pub probe_timeout_ms: u64,
    /// How many others are asked to probe a member that did not answer. 0 to 16.
    pub indirect_probes: u64,
    /// The shortest suspicion is this many probe intervals, times the decimal logarithm of the cluster's size.
    /// Larger forgives longer pauses and sees failures later. 1 to 100.
    pub suspicion_multiplier: u64,
    /// The longest suspicion, held while nobody confirms it, is this many times the shortest. 1 to 100.
    pub suspicion_max_multiplier: u64,
    /// How many confirmations by others bring a suspicion down to the shortest. 0 to 16.
    pub suspicion_confirmations: u64,
    /// How often news is sent when there is any. Shorter spreads sooner. 10 to 60,000.
    pub gossip_interval_ms: u64,
    /// To how many members it is sent each time. 1 to 32.
    pub gossip_fanout: u64,
    /// Each piece of news is sent this many times, times the decimal logarithm of the cluster's size. 1 to 32.
    pub retransmit_multiplier: u64,
    /// How often two members compare all they know. 100 to 3,600,000.
    pub pull_interval_ms: u64,
    /// The first wait before a peer that is gone is probed again. 10 to rejoin_max_ms.
    pub rejoin_min_ms: u64,
    /// The longest wait between two such probes; they never end. 10 to 3,600,000.
    pub rejoin_max_ms: u64,
    /// How long a member that is gone stays in the view. It stays a known peer for longer. 1,000 to 2,592,000,000.
    pub forget_after_ms: u64,
    /// The most members in the view. 1 to 10,000.
    pub members_max: u64,
    /// The most peers that are remembered over a restart and probed for ever. 1 to 10,000.
    pub known_peers_max: u64,
    /// The highest score of local ill-health: waits grow up to one more than this many times. 0 to 8.
    pub awareness_max: u64,
    /// Whether a node takes its own slowness into account, and probes once more by itself before it declares
    /// anybody down. Off is plain SWIM.
    pub is_health_aware: bool,
    /// Whether a member that does not answer datagrams is probed over a stream before it is suspected.
    pub is_stream_probing: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self::lan()
    }
}

impl Settings {
    /// For nodes of one site: round trips of a few milliseconds.
    #[must_use]
    pub fn lan() -> Self {
        Self {
            probe_interval_ms: 1_000,
            probe_timeout_ms: 500,
            indirect_probes: 3,
            suspicion_multiplier: 4,
            suspicion_max_multiplier: 6,
            suspicion_confirmations: 3,
            gossip_interval_ms: 200,
            gossip_fanout: 3,
            retransmit_multiplier: 4,
            pull_interval_ms: 30_000,
            rejoin_min_ms: 1_000,
            rejoin_max_ms: 60_000,
            forget_after_ms: 86_400_000,
            members_max: 10_000,
            known_peers_max: 1_024,
            awareness_max: 8,
            is_health_aware: true,
            is_stream_probing: true,
        }
    }

    /// For nodes on several continents: round trips up to a second.
    #[must_use]
    pub fn wan() -> Self {
        Self {
            probe_interval_ms: 4_000,
            probe_timeout_ms: 2_000,
            gossip_interval_ms: 500,
            gossip_fanout: 4,
            pull_interval_ms: 60_000,
            ..Self::lan()
        }
    }

    /// For nodes on one machine, to try things out: failures are seen within about three seconds.
    #[must_use]
    pub fn local() -> Self {
        Self {
            probe_interval_ms: 300,
            probe_timeout_ms: 150,
            gossip_interval_ms: 50,
            pull_interval_ms: 5_000,
            rejoin_min_ms: 250,
            rejoin_max_ms: 2_000,
            ..Self::lan()
        }
    }

    /// Checks every field against its range.
    ///
    /// # Errors
    /// The first field that is outside its range.
    pub fn validate(&self) -> Result<(), InvalidSettings> {
        let ranges = [
            ("probe_interval_ms", self.probe_interval_ms, 10, 600_000),
            ("probe_timeout_ms", self.probe_timeout_ms, 1, self.probe_interval_ms),
            ("indirect_probes", self.indirect_probes, 0, 16),
            ("suspicion_multiplier", self.suspicion_multiplier, 1, 100),
            ("suspicion_max_multiplier", self.suspicion_max_multiplier, 1, 100),
            ("suspicion_confirmations", self.suspicion_confirmations, 0, 16),
            ("gossip_interval_ms", self.gossip_interval_ms, 10, 60_000),
            ("gossip_fanout", self.gossip_fanout, 1, 32),
            ("retransmit_multiplier", self.retransmit_multiplier, 1, 32),
            ("pull_interval_ms", self.pull_interval_ms, 100, 3_600_000),
            ("rejoin_min_ms", self.rejoin_min_ms, 10, self.rejoin_max_ms),
            ("rejoin_max_ms", self.rejoin_max_ms, 10, 3_600_000),
            ("forget_after_ms", self.forget_after_ms, 1_000, 2_592_000_000),
            ("members_max", self.members_max, 1, 10_000),
            ("known_peers_max", self.known_peers_max, 1, 10_000),
            ("awareness_max", self.awareness_max, 0, 8),
        ];
        let outside = ranges.into_iter().find(|(_, value, low, high)| !(low..=high).contains(&value));
        outside.map_or(Ok(()), |(field, value, low, high)| Err(InvalidSettings { field, value, low, high }))
    }

    pub(crate) fn probe_interval(&self) -> Duration {
        Duration::from_millis(self.probe_interval_ms)
    }

    pub(crate) fn probe_timeout(&self) -> Duration {
        Duration::from_millis(self.probe_timeout_ms)
    }

    pub(crate) fn gossip_interval(&self) -> Duration {
        Duration::from_millis(self.gossip_interval_ms)
    }

    pub(crate) fn pull_interval(&self) -> Duration {
        Duration::from_millis(self.pull_interval_ms)
    }

    /// The shortest suspicion in a view of `members`, this node among them.
    pub(crate) fn suspicion_min(&self, members: usize) -> Duration {
        let multiplier = u32::try_from(self.suspicion_multiplier).unwrap_or(u32::MAX);
        self.probe_interval().saturating_mul(multiplier).mul_f64(decades(members))
    }

    /// How often one piece of news is sent in a view of `members`.
    pub(crate) fn retransmits(&self, members: usize) -> u32 {
        let decades = members.saturating_add(1).checked_ilog10().unwrap_or(0).saturating_add(1);
        u32::try_from(self.retransmit_multiplier).unwrap_or(u32::MAX).saturating_mul(decades)
    }
}

/// The decimal logarithm of a number of members, at least 1.
fn decades(members: usize) -> f64 {
    f64::from(u32::try_from(members).unwrap_or(u32::MAX).max(1)).log10().max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_fields_outside_their_range_are_named() {
        for preset in [Settings::lan(), Settings::wan(), Settings::local()] {
            assert_eq!(preset.validate(), Ok(()));
        }
        let slow = Settings { probe_timeout_ms: 1_001, ..Settings::lan() };
        assert_eq!(slow.validate().unwrap_err().to_string(), "probe_timeout_ms = 1001 must lie in 1..=1000");
    }

    #[test]
    fn suspicion_grows_with_the_logarithm_of_the_cluster() {
        let lan = Settings::lan();
        assert_eq!(lan.suspicion_min(3), lan.suspicion_min(10));
        assert_eq!(lan.suspicion_min(1_000), lan.suspicion_min(10) * 3);
    }
}
