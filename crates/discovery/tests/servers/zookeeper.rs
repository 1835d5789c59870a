//! A real ZooKeeper on loopback.

use crate::port::free_port;
use crate::process::{Process, text};

/// A ZooKeeper whose data outlives its process.
pub(crate) struct ZooKeeper {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) process: Option<Process>,
    pub(crate) port: u16,
}

impl ZooKeeper {
    pub(crate) fn start() -> Self {
        let mut server =
            Self { folder: tempfile::tempdir().expect("a folder"), process: None, port: free_port() };
        server.revive();
        server
    }

    pub(crate) fn revive(&mut self) {
        let (config, data) = (self.folder.path().join("zoo.cfg"), self.folder.path().join("data"));
        let settings = format!(
            "tickTime=500\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n",
            text(&data),
            self.port
        );
        std::fs::write(&config, settings).expect("written");
        let classes = "/etc/zookeeper/conf_example:/usr/share/java/zookeeper.jar";
        let arguments =
            ["-Xmx256m", "-cp", classes, "org.apache.zookeeper.server.quorum.QuorumPeerMain", text(&config)];
        self.process = Some(Process::start("java", &arguments, self.port));
    }
}
