//! Where connections come in: the node they talk to and what they share, whatever carries their bytes.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use slipring_node::Node;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::keepalive::keep_alive;

use super::clients::Clients;
use super::conversation::converse;
use super::run::Session;
use super::view::View;

/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A Redis port of one node; clones are the same one.
#[derive(Clone)]
pub struct Port {
    node: Node,
    clients: Clients,
    view: View,
    stopping: watch::Receiver<bool>,
}

impl Port {
    /// A port of `node` that shows it as one server, whose connections end once `stopping` holds `true` and what they have read is answered.
    #[must_use]
    pub fn new(node: Node, stopping: watch::Receiver<bool>) -> Self {
        let clients = Clients::new(node.client_limits().redis_connections);
        Self { node, clients, view: View::Plain, stopping }
    }

    /// A port with another view of the same node; the two share the places for connections.
    #[must_use]
    pub fn with_view(&self, view: View) -> Self {
        Self { view, ..self.clone() }
    }

    /// Serves one connection in a task of its own on the runtime this is called on; `address` is shown in
    /// CLIENT LIST.
    ///
    /// # Errors
    /// Gives the stream back when as many connections are open as may be.
    pub fn open<S>(&self, stream: S, address: String) -> Result<(), S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(presence) = self.clients.enter(address) else { return Err(stream) };
        let client = Arc::clone(&presence.client);
        let session = Session::new(self.node.clone(), presence, self.view);
        client.served_by(tokio::spawn(talk(stream, session, self.stopping.clone())).abort_handle());
        Ok(())
    }
}

/// Serves Redis clients on `listener` until the port is stopping; connections finish what they have read.
pub async fn serve(listener: TcpListener, port: Port) {
    let mut stopping = port.stopping.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopping.wait_for(|is_stopping| *is_stopping) => return,
            accepted = listener.accept() => accepted,
        };
        let entered = accepted.and_then(|(stream, address)| {
            stream.set_nodelay(true)?;
            keep_alive(&stream, port.node.client_limits().keepalive);
            Ok(port.open(stream, address.to_string()))
        });
        match entered {
            Ok(Ok(())) => {}
            Ok(Err(stream)) => turn_away(stream),
            Err(error) => {
                // No file is free, for instance: the port stays, and takes the connection once there is one.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn turn_away(stream: TcpStream) {
    let message = b"-ERR max number of clients reached\r\n";
    if let Err(error) = stream.into_std().and_then(|mut stream| stream.write_all(message)) {
        tracing::debug!(%error, "a client that was turned away does not know why");
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    session: Session,
    stopping: watch::Receiver<bool>,
) {
    if let Err(error) = converse(stream, session, stopping).await {
        tracing::debug!(%error, "a Redis connection ended");
    }
}
