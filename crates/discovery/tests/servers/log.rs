//! What is logged as a warning while a test runs, on its thread.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::Level;
use tracing::subscriber::DefaultGuard;

/// How long something may take to be said.
const PATIENCE: Duration = Duration::from_secs(40);

/// Keeps what is logged until it is dropped.
pub(crate) struct Log {
    text: Text,
    _kept: DefaultGuard,
}

#[derive(Clone, Default)]
struct Text(Arc<Mutex<String>>);

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// From now on.
    pub(crate) fn keep() -> Self {
        let text = Text::default();
        let writer = text.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        Self { text, _kept: tracing::subscriber::set_default(subscriber) }
    }

    /// What sources were said to fail for, a line for each time.
    pub(crate) fn failures(&self) -> Vec<String> {
        let text = self.text.0.lock();
        text.lines().filter(|line| line.contains("a source of addresses fails")).map(str::to_owned).collect()
    }

    /// Waits until a source is said to fail, with all these words in the line.
    pub(crate) async fn expect_failure(&self, words: &[&str]) {
        let until = Instant::now() + PATIENCE;
        while !self.failures().iter().any(|line| words.iter().all(|word| line.contains(word))) {
            assert!(Instant::now() < until, "expected {words:?} in {:#?}", self.failures());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
