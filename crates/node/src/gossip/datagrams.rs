//! The way datagrams leave and come: a UDP socket, or a simulated one.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use slipring_membership::DATAGRAM_BYTES_MAX;
use tokio::net::UdpSocket;

/// A rest after the socket has failed, so that one that keeps failing costs little.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Sends and receives datagrams of at most 1,400 bytes. Any may be lost, doubled, late or out of order.
pub trait Datagrams: Send + Sync + 'static {
    /// Sends a datagram, or loses it. Never blocks.
    fn send_to(&self, to: SocketAddr, bytes: &[u8]);

    /// The next datagram and where it came from. Dropping the future loses none.
    fn recv(&self) -> BoxFuture<'_, (SocketAddr, Vec<u8>)>;

    /// Where the node at a peer address (`host:port`) gets its datagrams; `None` when that cannot be found out.
    fn resolve(&self, address: String) -> BoxFuture<'static, Option<SocketAddr>>;
}

/// A UDP socket.
pub struct UdpDatagrams {
    socket: UdpSocket,
    /// The same socket: sent through directly, as the runtime does not know at first that it can be written to.
    sender: std::net::UdpSocket,
}

impl UdpDatagrams {
    /// Datagrams through a bound socket.
    ///
    /// # Errors
    /// When the system has no more handles.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let socket = socket.into_std()?;
        let sender = socket.try_clone()?;
        Ok(Self { socket: UdpSocket::from_std(socket)?, sender })
    }
}

impl Datagrams for UdpDatagrams {
    fn send_to(&self, to: SocketAddr, bytes: &[u8]) {
        // A full buffer or an unreachable network loses the datagram, as the network may.
        if let Err(error) = self.sender.send_to(bytes, to)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            tracing::debug!(%to, %error, "a datagram could not be sent");
        }
    }

    fn recv(&self) -> BoxFuture<'_, (SocketAddr, Vec<u8>)> {
        Box::pin(async {
            loop {
                // One byte more than any of ours has, so that a longer one is seen to be too long.
                let mut bytes = vec![0; DATAGRAM_BYTES_MAX + 1];
                match self.socket.recv_from(&mut bytes).await {
                    Ok((length, from)) => {
                        bytes.truncate(length);
                        return (from, bytes);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a datagram could not be received");
                        tokio::time::sleep(REST_AFTER_FAILURE).await;
                    }
                }
            }
        })
    }

    fn resolve(&self, address: String) -> BoxFuture<'static, Option<SocketAddr>> {
        let is_v4 = self.socket.local_addr().is_ok_and(|local| local.is_ipv4());
        Box::pin(async move {
            if let Ok(literal) = address.parse() {
                return Some(literal);
            }
            let found: Vec<SocketAddr> = tokio::net::lookup_host(address).await.ok()?.collect();
            found.iter().find(|found| found.is_ipv4() == is_v4).or(found.first()).copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagrams(socket: UdpSocket) -> UdpDatagrams {
        UdpDatagrams::new(socket).expect("a second handle")
    }

    async fn arrived(at: &UdpDatagrams) -> (SocketAddr, Vec<u8>) {
        tokio::time::timeout(Duration::from_secs(5), at.recv()).await.expect("a datagram")
    }

    #[tokio::test]
    async fn datagrams_come_whole_and_long_ones_show_that_they_are() {
        let bind = || async { UdpSocket::bind("127.0.0.1:0").await.expect("a socket") };
        let (here, there) = (bind().await, bind().await);
        let (here_at, there_at) = (here.local_addr().expect("bound"), there.local_addr().expect("bound"));
        let (here, there) = (datagrams(here), datagrams(there));
        here.send_to(there_at, b"news");
        assert_eq!(arrived(&there).await, (here_at, b"news".to_vec()));
        here.send_to(there_at, &[7; DATAGRAM_BYTES_MAX * 2]);
        assert_eq!(arrived(&there).await.1.len(), DATAGRAM_BYTES_MAX + 1);
    }

    #[tokio::test]
    async fn names_are_looked_up_and_literals_are_not() {
        let socket = datagrams(UdpSocket::bind("127.0.0.1:0").await.expect("a socket"));
        let at = |text: &str| socket.resolve(text.to_owned());
        assert_eq!(at("10.0.0.1:7946").await, "10.0.0.1:7946".parse().ok());
        assert_eq!(at("localhost:7946").await, "127.0.0.1:7946".parse().ok());
        assert_eq!(at("no port").await, None);
    }
}
