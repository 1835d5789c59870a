//! Signs of life: a client that vanished without a word is found by the system, which asks its machine for one.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How often a machine is asked before its connection ends.
const QUESTIONS: u32 = 3;

/// Lets the system ask for signs of life on a connection that has been silent for so long, if it is to.
pub(crate) fn keep_alive(stream: &TcpStream, silence: Option<Duration>) {
    let Some(silence) = silence else { return };
    let pause = (silence / QUESTIONS).max(Duration::from_secs(1));
    let asking = TcpKeepalive::new().with_time(silence).with_interval(pause).with_retries(QUESTIONS);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&asking) {
        tracing::debug!(%error, "a client that vanishes may be found late");
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn silent_machines_are_asked_when_they_are_to_be() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("accepted");
        keep_alive(&stream, None);
        assert!(!SockRef::from(&stream).keepalive().expect("an option"));
        keep_alive(&stream, Some(Duration::from_secs(30)));
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("an option"));
        assert_eq!(socket.tcp_keepalive_time().expect("an option"), Duration::from_secs(30));
        assert_eq!(socket.tcp_keepalive_interval().expect("an option"), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_retries().expect("an option"), QUESTIONS);
    }
}
