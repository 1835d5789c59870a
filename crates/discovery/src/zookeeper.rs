//! ZooKeeper: one ephemeral node for each address under a path, named like the address.
//!
//! An ephemeral node lives as long as the session that made it. When the session is over (the process was
//! paused, the servers were away for long), a new one is opened and makes the node again. A node that an
//! earlier start of this process left behind is replaced, for it will vanish with its own session.

use std::convert::Infallible;
use std::time::Duration;

use futures::future::BoxFuture;
use zookeeper_client::{Acls, Client, CreateMode, Error, SessionState};

use crate::location::{InvalidLocation, Location};
use crate::source::{Failure, Found, Kept, Source, Withdrawn, keep_up};

/// How long one question may take, reconnecting included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a session outlives its last sign of life.
const SESSION: Duration = Duration::from_secs(10);
/// How often the node is looked after.
const RENEWAL: Duration = Duration::from_secs(3);
/// Who may do what with the nodes: everybody everything, as there are no passwords.
const ACLS: Acls<'static> = Acls::anyone_all();

/// A path in an ensemble of ZooKeeper.
pub(crate) struct ZooKeeper {
    cluster: String,
    path: String,
}

impl ZooKeeper {
    /// `zookeeper://host:port[,host:port]/path`.
    pub(crate) fn new(location: &Location) -> Result<Self, InvalidLocation> {
        location.expect_options(&[])?;
        let is_path = location.path.split('/').all(|name| !["", ".", ".."].contains(&name));
        if !is_path || !location.path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(location.invalid("write zookeeper://host:port/path"));
        }
        Ok(Self { cluster: location.endpoints()?.join(","), path: format!("/{}", location.path) })
    }

    /// Opens a session, and makes the path where it is not there yet.
    async fn connect(&self) -> Result<Client, Failure> {
        let connector = Client::connector().with_session_timeout(SESSION).with_fail_eagerly();
        let client = in_time(&self.cluster, connector.connect(&self.cluster)).await?;
        let options = CreateMode::Persistent.with_acls(ACLS);
        in_time(&self.path, client.mkdir(&self.path, &options)).await?;
        Ok(client)
    }

    async fn read_and_watch(&self, found: &Found) -> Result<Infallible, Failure> {
        let client = self.connect().await?;
        loop {
            let (children, changed) = in_time(&self.path, client.list_and_watch_children(&self.path)).await?;
            found.publish(children);
            let event = changed.changed().await;
            if event.session_state.is_terminated() {
                return Err(over(event.session_state));
            }
        }
    }

    async fn keep(&self, address: &str, withdrawn: &mut Withdrawn, kept: &Kept<'_>) -> Result<(), Failure> {
        let client = self.connect().await?;
        let path = format!("{}/{address}", self.path);
        tokio::select! {
            kept_up = keep_up(RENEWAL, withdrawn, kept, || ensure(&client, &path)) => kept_up?,
            failure = session_over(&client) => return Err(failure),
        }
        in_time(&path, remove(&client, &path)).await
    }
}

/// Returns when the session is over.
async fn session_over(client: &Client) -> Failure {
    let mut session = client.state_watcher();
    loop {
        let state = session.changed().await;
        if state.is_terminated() {
            return over(state);
        }
    }
}

fn over(state: SessionState) -> Failure {
    Failure::say(format!("the session is over: {state:?}"))
}

/// Makes the node unless it is there and of this session.
async fn ensure(client: &Client, path: &str) -> Result<(), Failure> {
    let owner = in_time(path, client.check_stat(path)).await?.map(|stat| stat.ephemeral_owner);
    if owner == Some(client.session_id().0) {
        return Ok(());
    }
    if owner.is_some() {
        in_time(path, remove(client, path)).await?;
    }
    let options = CreateMode::Ephemeral.with_acls(ACLS);
    in_time(path, client.create(path, &[], &options)).await.map(|_| ())
}

/// Deletes a node; one that is not there is well deleted.
async fn remove(client: &Client, path: &str) -> Result<(), Error> {
    match client.delete(path, None).await {
        Err(Error::NoNode) => Ok(()),
        deleted => deleted,
    }
}

async fn in_time<T>(what: &str, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(answer) => answer.map_err(|error| Failure::new(what, &error)),
        Err(_) => Err(Failure::say(format!("{what}: no answer within {TIMEOUT:?}"))),
    }
}

impl Source for ZooKeeper {
    fn follow<'a>(&'a self, found: &'a Found) -> BoxFuture<'a, Failure> {
        Box::pin(async {
            let Err(failure) = self.read_and_watch(found).await;
            failure
        })
    }

    fn can_announce(&self) -> bool {
        true
    }

    fn announce<'a>(
        &'a self,
        address: &'a str,
        mut withdrawn: Withdrawn,
        kept: &'a Kept<'a>,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { self.keep(address, &mut withdrawn, kept).await })
    }
}
