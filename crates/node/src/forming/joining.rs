//! Joining a cluster: ask who is a member, then members in turn until one admits this node.

use std::time::Duration;

use slipring_discovery::Discovery;
use slipring_membership::ClusterKey;
use slipring_model::ErrorKind;
use slipring_transport::AskError;
use slipring_wire::{Reply, Request};

use super::admission::{Admission, Descriptor, STEP_TIMEOUT};
use super::introduction::Answer;
use super::waiting::Waiting;
use crate::builder::StartError;
use crate::core::Core;
use crate::identity::Membership;

/// Rests between rounds over the seeds, doubled from the first to the last.
const RESTS_MS: (u64, u64) = (50, 1_000);

/// What a member said.
enum Said {
    Welcome(Box<Admission>),
    Later(String),
    Never(String),
}

impl Core {
    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor {
            node: self.me,
            storage: self.identity.storage,
            incarnation: self.incarnation,
            boot: self.boot,
            addresses: self.addresses.clone(),
            zone: self.settings.zone.clone(),
            weight: self.settings.weight,
            spare: self.settings.spare,
            as_new: self.settings.as_new,
            versions: self.settings.versions,
            signature: self.sign_start(),
        }
    }

    /// Asks the seeds, those that there are in each round, until one admits this node or all that answer refuse it.
    pub(super) async fn join(&self, seeds: &dyn Discovery) -> Result<Membership, StartError> {
        let (mut rest_ms, mut waiting) = (RESTS_MS.0, Waiting::new(seeds));
        loop {
            let survey = self.survey(seeds.candidates().await).await;
            survey.check_not_refused()?;
            let members = survey.members()?;
            if let Some(membership) = self.join_one_of(&members).await? {
                return Ok(membership);
            }
            waiting.tell(&survey, || "not a member of a cluster yet".to_owned());
            tokio::time::sleep(Duration::from_millis(rest_ms)).await;
            rest_ms = (rest_ms * 2).min(RESTS_MS.1);
        }
    }

    /// Asks members of one cluster in turn; nothing when they should be asked again later.
    pub(super) async fn join_one_of(&self, members: &[&Answer]) -> Result<Option<Membership>, StartError> {
        let (mut refusal, mut is_later) = (None, false);
        for member in members {
            match self.ask_to_join(&member.address).await {
                Said::Welcome(admission) => {
                    let membership = Membership { cluster: admission.cluster, raft_id: admission.raft_id };
                    let key = admission.cluster_key.map(ClusterKey);
                    membership.keep(&self.meta, &admission.layout, key.as_ref())?;
                    return Ok(Some(membership));
                }
                Said::Later(reason) => {
                    tracing::info!(address = member.address, reason, "cannot join yet");
                    is_later = true;
                }
                Said::Never(reason) => {
                    tracing::warn!(address = member.address, reason, "refused");
                    refusal.get_or_insert((member.address.clone(), reason));
                }
            }
        }
        match refusal {
            Some((address, reason)) if !is_later => Err(StartError::Refused { address, reason }),
            _ => Ok(None),
        }
    }

    async fn ask_to_join(&self, address: &str) -> Said {
        let Some(transport) = self.transport.get() else { return Said::Later("no transport".to_owned()) };
        let descriptor = serde_json::to_vec(&self.descriptor()).expect("a descriptor is plain data");
        // Admitting takes two steps at most.
        let patience = STEP_TIMEOUT * 2 + Duration::from_secs(1);
        match transport.ask(address.to_owned(), Request::Join(descriptor.into()), patience).await {
            Ok((_, Reply::Joined(json))) => serde_json::from_slice(&json).map_or_else(
                |error| Said::Never(format!("its answer cannot be read: {error}")),
                |admission| Said::Welcome(Box::new(admission)),
            ),
            Ok((_, Reply::Failed { kind, message })) => match kind {
                ErrorKind::Unavailable | ErrorKind::OutcomeUnknown => Said::Later(message),
                _ => Said::Never(message),
            },
            Ok(_) => Said::Never("it answered out of turn".to_owned()),
            Err(AskError::Refused { reason, .. }) => Said::Never(reason),
            Err(error) => Said::Later(error.to_string()),
        }
    }
}
