//! The proxies with plain sockets on both sides: what each impairment does to bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener as Listener, TcpStream as Stream};
use std::time::Instant as Clock;

use super::*;

/// Node 0 dials node 1 through the proxy before it.
struct Pair {
    proxies: Proxies,
    dialler: Stream,
    node: Stream,
}

const SHORT: Duration = Duration::from_millis(150);

fn host() -> IpAddr {
    IpAddr::from([127, 0, 0, 1])
}

fn proxies(listener: &Listener) -> Proxies {
    // Both nodes dial from one address; only node 0, the first that matches, ever does.
    let proxies = Proxies::start(host(), vec![host(), host()]).expect("proxies");
    proxies.set_target(1, listener.local_addr().expect("an address"));
    proxies
}

fn pair() -> Pair {
    let listener = Listener::bind((host(), 0)).expect("a listener");
    let proxies = proxies(&listener);
    let dialler = Stream::connect(proxies.address(1)).expect("connected");
    let (node, _) = listener.accept().expect("accepted");
    for stream in [&dialler, &node] {
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    }
    Pair { proxies, dialler, node }
}

fn read(stream: &mut Stream, length: usize) -> Result<Vec<u8>, ErrorKind> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).map(|()| bytes).map_err(|error| error.kind())
}

fn is_silent(stream: &mut Stream) -> bool {
    stream.set_read_timeout(Some(SHORT)).expect("set");
    let read = stream.read(&mut [0; 1]).map_err(|error| error.kind());
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    matches!(read, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

#[test]
fn a_cut_holds_one_direction_and_lets_go_of_all_it_held() {
    let mut pair = pair();
    pair.proxies.impair(0, 1, 7, Impairment::Cut);
    pair.dialler.write_all(b"there").expect("written");
    pair.node.write_all(b"back").expect("written");
    assert_eq!(read(&mut pair.dialler, 4), Ok(b"back".to_vec()));
    assert!(is_silent(&mut pair.node));
    pair.proxies.relieve(7);
    assert_eq!(read(&mut pair.node, 5), Ok(b"there".to_vec()));
    // Bytes are counted right after they have left.
    let counted = || Some(pair.proxies.traffic()).filter(|traffic| traffic.forwarded == 9);
    let deadline = Clock::now() + Duration::from_secs(5);
    let traffic = loop {
        match counted() {
            Some(traffic) => break traffic,
            None => assert!(Clock::now() < deadline, "{:?}", pair.proxies.traffic()),
        }
    };
    assert_eq!((traffic.held, traffic.broken), (5, 0));
}

#[test]
fn a_cut_holds_the_end_of_a_stream_too() {
    let mut pair = pair();
    pair.proxies.impair(0, 1, 7, Impairment::Cut);
    pair.dialler.shutdown(Shutdown::Write).expect("shut");
    assert!(is_silent(&mut pair.node));
    pair.proxies.clear();
    assert_eq!(read(&mut pair.node, 1), Err(ErrorKind::UnexpectedEof));
}

#[test]
fn nobody_connects_through_a_cut_whichever_way_it_is() {
    for (from, to) in [(0, 1), (1, 0)] {
        let listener = Listener::bind((host(), 0)).expect("a listener");
        let proxies = proxies(&listener);
        proxies.impair(from, to, 7, Impairment::Cut);
        let _dialler = Stream::connect(proxies.address(1)).expect("the proxy accepts");
        listener.set_nonblocking(true).expect("set");
        std::thread::sleep(SHORT);
        assert_eq!(listener.accept().expect_err("nobody").kind(), ErrorKind::WouldBlock);
        proxies.relieve(7);
        listener.set_nonblocking(false).expect("set");
        listener.accept().expect("it is through");
    }
}

#[test]
fn what_was_dropped_never_arrives_and_the_connection_breaks_afterwards() {
    let mut pair = pair();
    pair.proxies.impair(0, 1, 7, Impairment::Drop);
    pair.dialler.write_all(b"there").expect("written");
    assert!(is_silent(&mut pair.node));
    pair.proxies.relieve(7);
    assert!(read(&mut pair.node, 1).is_err(), "not even what comes later may arrive");
    assert_eq!(read(&mut pair.dialler, 1), Err(ErrorKind::ConnectionReset));
    let traffic = pair.proxies.traffic();
    assert_eq!((traffic.dropped, traffic.forwarded, traffic.broken), (5, 0, 1));
}

#[test]
fn a_connection_that_lost_nothing_outlives_a_drop() {
    let mut pair = pair();
    pair.proxies.impair(0, 1, 7, Impairment::Drop);
    pair.proxies.relieve(7);
    pair.dialler.write_all(b"there").expect("written");
    assert_eq!(read(&mut pair.node, 5), Ok(b"there".to_vec()));
}

#[test]
fn delays_and_throttles_take_their_time() {
    let mut pair = pair();
    pair.proxies.impair(0, 1, 7, Impairment::Delay(SHORT));
    let began = Clock::now();
    pair.dialler.write_all(b"there").expect("written");
    assert_eq!(read(&mut pair.node, 5), Ok(b"there".to_vec()));
    assert!(began.elapsed() >= SHORT);
    pair.proxies.clear();
    pair.proxies.impair(0, 1, 8, Impairment::Throttle(1_000));
    let began = Clock::now();
    pair.dialler.write_all(&[1; 200]).expect("written");
    assert_eq!(read(&mut pair.node, 200), Ok(vec![1; 200]));
    assert!(began.elapsed() >= Duration::from_millis(200));
    let traffic = pair.proxies.traffic();
    assert_eq!((traffic.delayed, traffic.throttled), (5, 200));
}

#[test]
fn a_reset_breaks_both_ends() {
    let mut pair = pair();
    pair.dialler.write_all(b"x").expect("written");
    assert_eq!(read(&mut pair.node, 1), Ok(b"x".to_vec()));
    pair.proxies.reset(0, 1);
    assert_eq!(read(&mut pair.dialler, 1), Err(ErrorKind::ConnectionReset));
    assert!(read(&mut pair.node, 1).is_err());
    assert_eq!(pair.proxies.traffic().broken, 1);
}

#[test]
fn a_node_that_does_not_listen_and_a_stranger_are_turned_away() {
    let elsewhere = IpAddr::from([127, 0, 0, 9]);
    let proxies = Proxies::start(host(), vec![elsewhere, elsewhere]).expect("proxies");
    let mut stranger = Stream::connect(proxies.address(1)).expect("connected");
    stranger.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    assert!(read(&mut stranger, 1).is_err());
    assert_eq!(proxies.traffic().strangers, 1);
    let own = Proxies::start(host(), vec![host()]).expect("proxies");
    let mut dialler = Stream::connect(own.address(0)).expect("connected");
    dialler.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    assert_eq!(read(&mut dialler, 1), Err(ErrorKind::ConnectionReset));
}
