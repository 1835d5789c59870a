//! How long a client waits: the `grpc-timeout` of its call.
//!
//! Source: gRPC over HTTP/2, "Timeout": up to eight digits and a unit.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::failure::{UNCHANGED, invalid, late};

/// The most digits a timeout may have.
const DIGITS_MAX: usize = 8;

/// When the client stops waiting; never, when it did not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// The deadline of a call that came in just now.
    ///
    /// # Errors
    /// The timeout cannot be read, or is over already.
    pub(super) fn of(metadata: &MetadataMap) -> Result<Self, Status> {
        let Some(value) = metadata.get("grpc-timeout") else { return Ok(Self(None)) };
        let timeout = value.to_str().ok().and_then(parse).ok_or_else(|| {
            invalid("grpc-timeout must be 1 to 8 digits and one of H, M, S, m, u, n, for instance 500m")
        })?;
        if timeout.is_zero() {
            return Err(late(UNCHANGED, "the call's deadline had passed when it came in; nothing was done"));
        }
        Ok(Self(Some(Instant::now() + timeout)))
    }

    /// The time that is left, if it has an end.
    pub(super) fn left(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Waits for `work` until the deadline; then the client is told `outcome` and `message`.
    ///
    /// # Errors
    /// The time was up first.
    pub(super) async fn within<T>(
        self,
        work: impl Future<Output = T>,
        outcome: &'static str,
        message: &'static str,
    ) -> Result<T, Status> {
        match self.0 {
            None => Ok(work.await),
            Some(at) => tokio::time::timeout_at(at, work).await.map_err(|_| late(outcome, message)),
        }
    }
}

fn parse(text: &str) -> Option<Duration> {
    let (unit_at, unit) = text.char_indices().next_back()?;
    let digits = text.get(..unit_at)?;
    let is_number =
        (1..=DIGITS_MAX).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let amount: u64 = digits.parse().ok().filter(|_| is_number)?;
    match unit {
        'H' => Some(Duration::from_secs(amount * 60 * 60)),
        'M' => Some(Duration::from_secs(amount * 60)),
        'S' => Some(Duration::from_secs(amount)),
        'm' => Some(Duration::from_millis(amount)),
        'u' => Some(Duration::from_micros(amount)),
        'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        assert_eq!(parse("500m"), Some(Duration::from_millis(500)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(parse("1n"), Some(Duration::from_nanos(1)));
        for bad in ["", "m", "5", "123456789m", "+5m", "5 m", "5x", "5µ", "-1S"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_call_whose_time_is_up_is_refused() {
        let deadline = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("a value"));
            Deadline::of(&metadata)
        };
        assert_eq!(deadline("0m").expect_err("refused").code(), tonic::Code::DeadlineExceeded);
        assert_eq!(deadline("soon").expect_err("refused").code(), tonic::Code::InvalidArgument);
        assert!(deadline("1H").expect("a deadline").left() > Some(Duration::from_secs(3000)));
        assert_eq!(Deadline::of(&MetadataMap::new()).expect("none").left(), None);
    }
}
