//! Where hosts are reached: each has an address, and another one after it was relocated.

use std::net::SocketAddr;

use super::{Network, State};

/// How often each host was relocated.
pub(super) struct Places(Vec<u8>);

impl Places {
    pub(super) fn new(hosts: usize) -> Self {
        Self(vec![0; hosts])
    }

    fn times_relocated(&self, host: usize) -> u8 {
        self.0.get(host).copied().unwrap_or_default()
    }

    /// The peer address of a host.
    pub(super) fn address(&self, host: usize) -> String {
        match self.times_relocated(host) {
            0 => format!("host-{host}:7946"),
            times => format!("host-{host}-{times}:7946"),
        }
    }

    /// Where a host gets its datagrams.
    pub(super) fn socket(&self, host: usize) -> SocketAddr {
        let [.., high, low] = host.to_be_bytes();
        SocketAddr::from(([10, self.times_relocated(host), high, low], 7_946))
    }

    /// The host that is at an address now.
    pub(super) fn at(&self, address: &str) -> Option<usize> {
        (0..self.0.len()).find(|host| self.address(*host) == address)
    }

    /// The host that gets datagrams there now.
    pub(super) fn at_socket(&self, socket: SocketAddr) -> Option<usize> {
        (0..self.0.len()).find(|host| self.socket(*host) == socket)
    }
}

impl Network {
    /// The peer address of a host.
    pub(crate) fn address(&self, host: usize) -> String {
        self.state.lock().places.address(host)
    }

    /// Gives a host whose process is gone another address; nothing answers at the old one.
    pub(crate) fn relocate(&self, host: usize) {
        let mut state = self.state.lock();
        let State { places, questions, post, .. } = &mut *state;
        if let Some(times) = places.0.get_mut(host) {
            *times += 1;
        }
        questions.retain(|question| question.to != host);
        post.forget(host);
        self.journal.count("hosts relocated", 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_addresses_lead_nowhere() {
        let mut places = Places::new(2);
        let (address, socket) = (places.address(1), places.socket(1));
        assert_eq!((places.at(&address), places.at_socket(socket)), (Some(1), Some(1)));
        places.0 = vec![0, 1];
        assert_eq!((places.at(&address), places.at_socket(socket)), (None, None));
        assert_eq!(places.at(&places.address(1)), Some(1));
        assert_eq!(places.at_socket(places.socket(1)), Some(1));
    }
}
