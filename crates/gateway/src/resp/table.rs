//! Every command this gateway knows: what it takes, what it touches, who runs it.

use super::run::Handler;
use super::{admin, cluster, connection, describe, strings, transaction};

/// One command.
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    /// The name as a number, which is quick to look for.
    packed: u128,
    /// How many arguments with the name; negative: at least so many.
    pub(crate) arity: i64,
    pub(crate) group: Group,
    pub(crate) is_write: bool,
    /// First key, last key, step; zeros when it has none.
    pub(crate) keys: (i64, i64, i64),
    pub(crate) handler: Handler,
}

impl Spec {
    /// Whether the command may have so many arguments, at least its name among them.
    pub(crate) fn accepts(&self, length: usize) -> bool {
        let is_whole = match self.handler {
            Each(each) => length.saturating_sub(1).is_multiple_of(each.step),
            _ => true,
        };
        is_whole && usize::try_from(self.arity).map_or(length as i64 >= -self.arity, |exact| length == exact)
    }
}

/// What a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// Values.
    String,
    /// Keys, whatever their values.
    Generic,
    /// The connection itself.
    Connection,
    /// The node.
    Server,
    /// Who holds what.
    Cluster,
    /// Commands that run together.
    Transaction,
}

const fn read(name: &'static str, arity: i64, group: Group, keys: (i64, i64, i64), handler: Handler) -> Spec {
    Spec { name, packed: packed(name), arity, group, is_write: false, keys, handler }
}

const fn write(
    name: &'static str,
    arity: i64,
    group: Group,
    keys: (i64, i64, i64),
    handler: Handler,
) -> Spec {
    Spec { name, packed: packed(name), arity, group, is_write: true, keys, handler }
}

const fn packed(name: &str) -> u128 {
    match pack(name.as_bytes()) {
        Some(packed) => packed,
        None => panic!("a command's name has at most 16 letters"),
    }
}

/// A name of at most 16 letters as a number, in lower case; in the order of names.
const fn pack(mut name: &[u8]) -> Option<u128> {
    if name.len() > 16 {
        return None;
    }
    let (mut packed, mut shift) = (0, u128::BITS);
    while let Some((letter, rest)) = name.split_first() {
        shift -= 8;
        packed |= (letter.to_ascii_lowercase() as u128) << shift;
        name = rest;
    }
    Some(packed)
}

const NONE: (i64, i64, i64) = (0, 0, 0);
const ONE: (i64, i64, i64) = (1, 1, 1);
const ALL: (i64, i64, i64) = (1, -1, 1);
const PAIRS: (i64, i64, i64) = (1, -1, 2);

use Group::{Cluster, Connection, Generic, Server, String, Transaction};
use Handler::{Each, Now, Wait};

/// In alphabetical order, for looking up by halves.
pub(crate) static COMMANDS: &[Spec] = &[
    read("acl", -2, Server, NONE, Now(admin::acl)),
    write("append", 3, String, ONE, Now(strings::append)),
    read("asking", 1, Connection, NONE, Now(cluster::accept)),
    read("auth", -2, Connection, NONE, Now(connection::auth)),
    read("client", -2, Connection, NONE, Now(connection::client)),
    read("cluster", -2, Cluster, NONE, Wait(cluster::cluster)),
    read("command", -1, Server, NONE, Now(describe::command)),
    read("config", -2, Server, NONE, Wait(admin::config)),
    read("dbsize", 1, Server, NONE, Wait(admin::dbsize)),
    read("debug", -2, Server, NONE, Wait(admin::debug)),
    write("decr", 2, String, ONE, Now(strings::decr)),
    write("decrby", 3, String, ONE, Now(strings::decrby)),
    write("del", -2, Generic, ALL, Each(strings::DELETES)),
    read("discard", 1, Transaction, NONE, Now(transaction::discard)),
    read("echo", 2, Connection, NONE, Now(connection::echo)),
    read("exec", 1, Transaction, NONE, Now(transaction::exec)),
    read("exists", -2, Generic, ALL, Each(strings::COUNTS)),
    write("expire", -3, Generic, ONE, Now(strings::expire)),
    write("expireat", -3, Generic, ONE, Now(strings::expireat)),
    read("expiretime", 2, Generic, ONE, Now(strings::expiretime)),
    write("flushall", -1, Server, NONE, Wait(admin::flushall)),
    write("flushdb", -1, Server, NONE, Wait(admin::flushdb)),
    read("get", 2, String, ONE, Now(strings::get)),
    write("getdel", 2, String, ONE, Now(strings::getdel)),
    write("getex", -2, String, ONE, Now(strings::getex)),
    read("getrange", 4, String, ONE, Now(strings::getrange)),
    write("getset", 3, String, ONE, Now(strings::getset)),
    read("hello", -1, Connection, NONE, Now(connection::hello)),
    write("incr", 2, String, ONE, Now(strings::incr)),
    write("incrby", 3, String, ONE, Now(strings::incrby)),
    write("incrbyfloat", 3, String, ONE, Now(strings::incrbyfloat)),
    read("info", -1, Server, NONE, Wait(admin::info)),
    read("keys", 2, Generic, NONE, Wait(admin::keys)),
    read("lastsave", 1, Server, NONE, Now(admin::lastsave)),
    read("latency", -2, Server, NONE, Now(admin::latency)),
    read("lolwut", -1, Server, NONE, Now(admin::lolwut)),
    read("memory", -2, Server, NONE, Now(admin::memory)),
    read("mget", -2, String, ALL, Each(strings::READS)),
    read("module", -2, Server, NONE, Now(admin::module)),
    write("mset", -3, String, PAIRS, Each(strings::WRITES)),
    write("msetnx", -3, String, PAIRS, Now(strings::msetnx)),
    read("multi", 1, Transaction, NONE, Now(transaction::multi)),
    read("object", -2, Generic, (2, 2, 1), Now(strings::object)),
    write("persist", 2, Generic, ONE, Now(strings::persist)),
    write("pexpire", -3, Generic, ONE, Now(strings::pexpire)),
    write("pexpireat", -3, Generic, ONE, Now(strings::pexpireat)),
    read("pexpiretime", 2, Generic, ONE, Now(strings::pexpiretime)),
    read("ping", -1, Connection, NONE, Now(connection::ping)),
    write("psetex", 4, String, ONE, Now(strings::psetex)),
    read("pttl", 2, Generic, ONE, Now(strings::pttl)),
    read("quit", -1, Connection, NONE, Now(connection::quit)),
    read("randomkey", 1, Generic, NONE, Wait(admin::randomkey)),
    read("readonly", 1, Connection, NONE, Now(cluster::accept)),
    read("readwrite", 1, Connection, NONE, Now(cluster::accept)),
    read("reset", 1, Connection, NONE, Now(connection::reset)),
    read("role", 1, Server, NONE, Now(admin::role)),
    read("scan", -2, Generic, NONE, Wait(admin::scan)),
    read("select", 2, Connection, NONE, Now(connection::select)),
    read("sentinel", -2, Server, NONE, Now(admin::sentinel)),
    write("set", -3, String, ONE, Now(strings::set)),
    write("setex", 4, String, ONE, Now(strings::setex)),
    write("setnx", 3, String, ONE, Now(strings::setnx)),
    write("setrange", 4, String, ONE, Now(strings::setrange)),
    read("shutdown", -1, Server, NONE, Now(admin::shutdown)),
    read("slowlog", -2, Server, NONE, Now(admin::slowlog)),
    read("strlen", 2, String, ONE, Now(strings::strlen)),
    read("substr", 4, String, ONE, Now(strings::getrange)),
    read("time", 1, Server, NONE, Now(admin::time)),
    read("touch", -2, Generic, ALL, Each(strings::COUNTS)),
    read("ttl", 2, Generic, ONE, Now(strings::ttl)),
    read("type", 2, Generic, ONE, Now(strings::type_of)),
    write("unlink", -2, Generic, ALL, Each(strings::DELETES)),
    read("unwatch", 1, Transaction, NONE, Now(transaction::unwatch)),
    read("wait", 3, Generic, NONE, Now(admin::wait)),
    read("watch", -2, Transaction, ALL, Now(transaction::watch)),
];

/// Commands that will not be there, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    (
        "bgrewriteaof",
        "ERR BGREWRITEAOF is not supported: each bucket's policy says when writes reach the disk",
    ),
    ("bgsave", "ERR BGSAVE is not supported: each bucket's policy says when writes reach the disk"),
    ("failover", "ERR FAILOVER is not supported: every replica takes writes, there is nothing to fail over"),
    ("fcall", "ERR FCALL is not supported: this server runs no scripts"),
    ("fcall_ro", "ERR FCALL_RO is not supported: this server runs no scripts"),
    ("function", "ERR FUNCTION is not supported: this server runs no scripts"),
    ("migrate", "ERR MIGRATE is not supported: partitions move by themselves, see `slipring layout show`"),
    ("psync", "ERR PSYNC is not supported: nodes join a cluster with `slipring start --join`"),
    ("replconf", "ERR REPLCONF is not supported: nodes join a cluster with `slipring start --join`"),
    ("replicaof", "ERR REPLICAOF is not supported: nodes join a cluster with `slipring start --join`"),
    ("save", "ERR SAVE is not supported: each bucket's policy says when writes reach the disk"),
    ("slaveof", "ERR SLAVEOF is not supported: nodes join a cluster with `slipring start --join`"),
    ("swapdb", "ERR SWAPDB is not supported: databases are buckets, which keep their numbers"),
    ("sync", "ERR SYNC is not supported: nodes join a cluster with `slipring start --join`"),
];

/// The command with this name, in any case.
pub(crate) fn find(name: &[u8]) -> Option<&'static Spec> {
    let packed = pack(name)?;
    let at = COMMANDS.binary_search_by_key(&packed, |spec| spec.packed).ok()?;
    COMMANDS.get(at).filter(|spec| spec.name.len() == name.len())
}

/// Why a command of Redis is refused.
pub(crate) fn refusal(name: &[u8]) -> Option<&'static str> {
    REFUSED.iter().find(|(refused, _)| name.eq_ignore_ascii_case(refused.as_bytes())).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_in_any_case() {
        assert!(COMMANDS.is_sorted_by_key(|spec| spec.name));
        for spec in COMMANDS {
            assert_eq!(find(spec.name.to_uppercase().as_bytes()).map(|found| found.name), Some(spec.name));
        }
        assert!(
            [&b"nope"[..], b"", b"get\0", b"a name of more than sixteen"]
                .iter()
                .all(|name| find(name).is_none())
        );
    }

    #[test]
    fn what_is_refused_is_not_there() {
        assert!(REFUSED.iter().all(|(name, _)| find(name.as_bytes()).is_none()));
        assert!(refusal(b"FailOver").is_some_and(|why| why.contains("every replica takes writes")));
    }
}
