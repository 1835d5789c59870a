//! Stretches: work that grows with what is asked pauses now and then, so that others on its thread are served.

use std::time::Duration;

use tokio::time::Instant;

/// How long a stretch of work may take before others are let through.
const STRETCH: Duration = Duration::from_millis(1);

/// Work since the last pause.
pub(crate) struct Stretch {
    began: Instant,
}

impl Stretch {
    pub(crate) fn begin() -> Self {
        Self { began: Instant::now() }
    }

    /// A step is done; pauses when the stretch is over.
    pub(crate) async fn step(&mut self) {
        if self.began.elapsed() >= STRETCH {
            tokio::task::yield_now().await;
            *self = Self::begin();
        }
    }
}
