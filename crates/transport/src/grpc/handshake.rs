//! The beginning of a connection: each side greets, then each proves that it has the key that its id names.
//!
//! The dialler greets first and proves first, so the side that was dialled signs nothing for a stranger that cannot
//! prove anything itself.
//!
//! Invariant: what a greeting says counts for nothing before its proof has been checked.

use bytes::Bytes;
use slipring_model::NodeId;
use slipring_wire::{Greeting, Greetings, Hello, Nonce, Side};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use super::Shared;
use super::client::Failed;
use crate::identity::is_signed_by;

/// What is sent to the other side.
pub(super) type Outgoing = mpsc::Sender<Result<Bytes, Status>>;

/// The other side, once it has proven who it is.
pub(super) struct Proven {
    pub(super) hello: Hello,
    /// The version that the two have agreed on.
    pub(super) version: u8,
}

/// The node that dialled goes on from here: it has sent its greeting, which was `ours`.
pub(super) async fn dial(
    shared: &Shared,
    ours: (&Bytes, bool),
    expected: Option<NodeId>,
    outgoing: &Outgoing,
    incoming: &mut Streaming<Bytes>,
) -> Result<Proven, Failed> {
    let (greeting, is_question) = ours;
    let theirs = next(incoming).await?;
    let Greeting { hello, nonce } = read(&theirs)?;
    if let Some(expected) = expected.filter(|expected| *expected != hello.node) {
        // That connection ends here, unproven on both sides, so that of a pair which is connected already stays.
        let message = format!("node {} answers there, not {}", hello.node.short(), expected.short());
        return Err(Failed::Unreachable(message));
    }
    let version = shared.check(&hello, is_question)?;
    require(nonce, &hello)?;
    let greetings = Greetings { dialler: greeting.clone(), acceptor: theirs, version };
    let proof = shared.key.sign(&greetings.statement(Side::Dialler));
    outgoing.send(Ok(proof.into())).await.map_err(|_| closed())?;
    let proof = next(incoming).await?;
    match is_signed_by(hello.node, &greetings.statement(Side::Acceptor), &proof) {
        true => Ok(Proven { hello, version }),
        false => Err(Failed::Unreachable(unproven(&hello))),
    }
}

/// The node that was dialled: answers the greeting of the other side, if there may be a connection.
pub(super) async fn accept(
    shared: &Shared,
    outgoing: &Outgoing,
    incoming: &mut Streaming<Bytes>,
) -> Result<Proven, Failed> {
    let theirs = next(incoming).await?;
    let Greeting { hello, nonce } = read(&theirs)?;
    if !hello.is_question {
        shared.inbox.dialled(&hello);
    }
    let version = shared.check(&hello, hello.is_question)?;
    require(nonce, &hello)?;
    let ours = shared.greeting(false).encode();
    outgoing.send(Ok(ours.clone())).await.map_err(|_| closed())?;
    let greetings = Greetings { dialler: theirs, acceptor: ours, version };
    let proof = next(incoming).await?;
    if !is_signed_by(hello.node, &greetings.statement(Side::Dialler), &proof) {
        return Err(Failed::Refused(unproven(&hello)));
    }
    let proof = shared.key.sign(&greetings.statement(Side::Acceptor));
    outgoing.send(Ok(proof.into())).await.map_err(|_| closed())?;
    Ok(Proven { hello, version })
}

fn read(bytes: &[u8]) -> Result<Greeting, Failed> {
    Greeting::decode(bytes).map_err(|error| Failed::Refused(error.to_string()))
}

/// Asked once the versions are known to fit: older nodes have no nonce, and are to hear of their version first.
fn require(nonce: Option<Nonce>, hello: &Hello) -> Result<(), Failed> {
    let refuse = || Failed::Refused(format!("the greeting of node {} has no nonce", hello.node.short()));
    nonce.map(drop).ok_or_else(refuse)
}

async fn next(incoming: &mut Streaming<Bytes>) -> Result<Bytes, Failed> {
    match incoming.message().await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(closed()),
        Err(status) if status.code() == Code::PermissionDenied => {
            Err(Failed::Refused(status.message().to_owned()))
        }
        Err(status) => Err(Failed::Unreachable(status.message().to_owned())),
    }
}

fn closed() -> Failed {
    Failed::Unreachable("it closed the connection".to_owned())
}

fn unproven(hello: &Hello) -> String {
    format!("what calls itself node {} does not have the key of that node", hello.node.short())
}
