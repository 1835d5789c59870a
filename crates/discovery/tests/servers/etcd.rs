//! A real etcd on loopback.

use crate::port::free_port;
use crate::process::{Process, text};

/// An etcd whose data outlives its process.
pub(crate) struct Etcd {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) process: Option<Process>,
    pub(crate) port: u16,
    peer_port: u16,
}

impl Etcd {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut etcd = Self { folder, process: None, port: free_port(), peer_port: free_port() };
        etcd.revive();
        etcd
    }

    pub(crate) fn revive(&mut self) {
        let (clients, peers) =
            (format!("http://127.0.0.1:{}", self.port), format!("http://127.0.0.1:{}", self.peer_port));
        let cluster = format!("default={peers}");
        let arguments = [
            "--data-dir",
            text(self.folder.path()),
            "--listen-client-urls",
            &clients,
            "--advertise-client-urls",
            &clients,
            "--listen-peer-urls",
            &peers,
            "--initial-advertise-peer-urls",
            &peers,
            "--initial-cluster",
            &cluster,
        ];
        self.process = Some(Process::start("etcd", &arguments, self.port));
    }
}
