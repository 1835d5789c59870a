//! What an operator may set about a node's behaviour. Components (engines, transport, clock) go to the builder.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use slipring_membership::Settings as MembershipSettings;
use slipring_model::{NodeId, Versions, limits};
use slipring_wire::PROTOCOL_VERSIONS;

/// A node's settings; every time is in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long a client's request may take before its outcome is given as unknown. Longer rides out slow
    /// peers, shorter frees clients sooner. 50 to 60,000.
    pub request_timeout_ms: u64,
    /// How long a read waits for a replica before it asks one more. Shorter costs messages. 1 to request_timeout_ms.
    pub hedge_ms: u64,
    /// How often replicas compare partitions with each other. Shorter repairs sooner and reads more. 100 to 3,600,000.
    pub exchange_interval_ms: u64,
    /// How often buffered buckets are forced to disk: the most that a loss of power can take. 1 to 10,000.
    pub sync_interval_ms: u64,
    /// How often expired values are looked for. 10 to 3,600,000.
    pub expiry_interval_ms: u64,
    /// How long to rest between two partitions whose records are all read to find damage. Shorter finds it
    /// sooner and reads more. 10 to 3,600,000.
    pub scrub_interval_ms: u64,
    /// How much of all the machine's processors moving data, repair and scrub may take together while clients
    /// are served, in percent, though never more than one processor; without clients they take what they need. Expiry
    /// takes as much, and more while it is behind. Less disturbs clients less and takes longer. 1 to 100.
    pub background_share: u32,
    /// How long a node may be gone until it is given up and its share goes to others; 0 never. The same on all
    /// nodes. 0, or 1,000 to 2,592,000,000.
    pub replace_after_ms: u64,
    /// How many bits of a position name its partition when this node founds a cluster. 1 to 14.
    pub partition_bits: u8,
    /// The zone this node stands in; copies are spread over zones.
    pub zone: String,
    /// This node's share of the partitions, relative to the others'. 1 to 1,000,000.
    pub weight: u32,
    /// Whether this node joins as a spare: a member, drained, that holds nothing until it is restored or takes a dead
    /// one's place. It cannot found a cluster. Without meaning once it has joined.
    pub spare: bool,
    /// Whether this node joins as a member more although the layout gives its address to a member that was not given up.
    /// Without meaning once it has joined.
    pub as_new: bool,
    /// A node that the operator has recovered after a lost majority, and that joined while this node was away: a member,
    /// too, until this node's layout says what it is.
    pub follow: Option<NodeId>,
    /// How fast failures of other nodes are seen, and what that costs. The same on all nodes.
    pub membership: MembershipSettings,
    /// The versions of the protocol between nodes that this one speaks. Not an operator's to set: those of the build,
    /// but where several builds in one cluster are imitated.
    #[serde(skip)]
    pub versions: Versions,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            request_timeout_ms: 2_000,
            hedge_ms: 50,
            exchange_interval_ms: 10_000,
            sync_interval_ms: 100,
            expiry_interval_ms: 100,
            scrub_interval_ms: 10_000,
            background_share: 1,
            replace_after_ms: 0,
            partition_bits: 8,
            zone: "default".to_owned(),
            weight: 100,
            spare: false,
            as_new: false,
            follow: None,
            membership: MembershipSettings::lan(),
            versions: PROTOCOL_VERSIONS,
        }
    }
}

impl Settings {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// A sentence that names the field and its range.
    pub fn validate(&self) -> Result<(), String> {
        let ranges = [
            ("request_timeout_ms", self.request_timeout_ms, 50, 60_000),
            ("hedge_ms", self.hedge_ms, 1, self.request_timeout_ms),
            ("exchange_interval_ms", self.exchange_interval_ms, 100, 3_600_000),
            ("sync_interval_ms", self.sync_interval_ms, 1, 10_000),
            ("expiry_interval_ms", self.expiry_interval_ms, 10, 3_600_000),
            ("scrub_interval_ms", self.scrub_interval_ms, 10, 3_600_000),
            ("background_share", u64::from(self.background_share), 1, 100),
            ("replace_after_ms", self.replace_after_ms, off_or(1_000, self.replace_after_ms), 2_592_000_000),
            ("partition_bits", u64::from(self.partition_bits), 1, u64::from(limits::PARTITION_BITS_MAX)),
            ("weight", u64::from(self.weight), 1, u64::from(limits::WEIGHT_MAX)),
        ];
        let outside = ranges.iter().find(|(_, value, low, high)| !(low..=high).contains(&value));
        match outside {
            Some((name, value, low, high)) => Err(format!("{name} = {value} must lie in {low}..={high}")),
            None if self.zone.is_empty() || self.zone.len() > limits::ZONE_BYTES_MAX => {
                Err(format!("zone must have 1 to {} bytes", limits::ZONE_BYTES_MAX))
            }
            None if !self.versions.is_range() => {
                Err(format!("versions {} must go from the oldest to the newest", self.versions))
            }
            None => self.membership.validate().map_err(|error| error.to_string()),
        }
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    pub(crate) fn hedge(&self) -> Duration {
        Duration::from_millis(self.hedge_ms)
    }
}

/// The least value of a setting that 0 turns off.
fn off_or(least: u64, value: u64) -> u64 {
    if value == 0 { 0 } else { least }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_a_field_out_of_range_is_named() {
        assert_eq!(Settings::default().validate(), Ok(()));
        let wrong = Settings { partition_bits: 15, ..Settings::default() };
        assert_eq!(wrong.validate(), Err("partition_bits = 15 must lie in 1..=14".to_owned()));
    }
}
