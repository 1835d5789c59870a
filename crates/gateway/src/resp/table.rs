//! Every command this gateway knows: what it takes, what it touches, who runs it.

use super::run::Handler;
use super::{admin, cluster, describe, strings};

/// One command.
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    /// How many arguments with the name; negative: at least so many.
    pub(crate) arity: i64,
    pub(crate) is_write: bool,
    /// First key, last key, step; zeros when it has none.
    pub(crate) keys: (i64, i64, i64),
    pub(crate) handler: Handler,
}

const fn read(name: &'static str, arity: i64, keys: (i64, i64, i64), handler: Handler) -> Spec {
    Spec { name, arity, is_write: false, keys, handler }
}

const fn write(name: &'static str, arity: i64, keys: (i64, i64, i64), handler: Handler) -> Spec {
    Spec { name, arity, is_write: true, keys, handler }
}

const NONE: (i64, i64, i64) = (0, 0, 0);
const ONE: (i64, i64, i64) = (1, 1, 1);
const ALL: (i64, i64, i64) = (1, -1, 1);
const PAIRS: (i64, i64, i64) = (1, -1, 2);

use Handler::{Now, Wait};

/// In alphabetical order, for looking up by halves.
pub(crate) static COMMANDS: &[Spec] = &[
    read("acl", -2, NONE, Now(admin::acl)),
    write("append", 3, ONE, Now(strings::append)),
    read("asking", 1, NONE, Now(admin::ok)),
    read("auth", -2, NONE, Now(admin::auth)),
    read("client", -2, NONE, Now(admin::client)),
    read("cluster", -2, NONE, Wait(cluster::cluster)),
    read("command", -1, NONE, Now(describe::command)),
    read("config", -2, NONE, Now(admin::config)),
    read("dbsize", 1, NONE, Wait(admin::dbsize)),
    read("debug", -2, NONE, Wait(admin::debug)),
    write("decr", 2, ONE, Now(strings::decr)),
    write("decrby", 3, ONE, Now(strings::decrby)),
    write("del", -2, ALL, Now(strings::del)),
    read("echo", 2, NONE, Now(admin::echo)),
    read("exists", -2, ALL, Now(strings::exists)),
    write("expire", -3, ONE, Now(strings::expire)),
    write("expireat", -3, ONE, Now(strings::expireat)),
    read("expiretime", 2, ONE, Now(strings::expiretime)),
    write("flushall", -1, NONE, Wait(admin::flushall)),
    write("flushdb", -1, NONE, Wait(admin::flushdb)),
    read("get", 2, ONE, Now(strings::get)),
    write("getdel", 2, ONE, Now(strings::getdel)),
    write("getex", -2, ONE, Now(strings::getex)),
    read("getrange", 4, ONE, Now(strings::getrange)),
    write("getset", 3, ONE, Now(strings::getset)),
    read("hello", -1, NONE, Now(admin::hello)),
    write("incr", 2, ONE, Now(strings::incr)),
    write("incrby", 3, ONE, Now(strings::incrby)),
    write("incrbyfloat", 3, ONE, Now(strings::incrbyfloat)),
    read("info", -1, NONE, Wait(admin::info)),
    read("keys", 2, NONE, Wait(admin::keys)),
    read("lastsave", 1, NONE, Now(admin::lastsave)),
    read("latency", -2, NONE, Now(admin::latency)),
    read("lolwut", -1, NONE, Now(admin::lolwut)),
    read("memory", -2, NONE, Now(admin::memory)),
    read("mget", -2, ALL, Now(strings::mget)),
    read("module", -2, NONE, Now(admin::module)),
    write("mset", -3, PAIRS, Now(strings::mset)),
    write("msetnx", -3, PAIRS, Now(strings::msetnx)),
    read("object", -2, (2, 2, 1), Now(strings::object)),
    write("persist", 2, ONE, Now(strings::persist)),
    write("pexpire", -3, ONE, Now(strings::pexpire)),
    write("pexpireat", -3, ONE, Now(strings::pexpireat)),
    read("pexpiretime", 2, ONE, Now(strings::pexpiretime)),
    read("ping", -1, NONE, Now(admin::ping)),
    write("psetex", 4, ONE, Now(strings::psetex)),
    read("pttl", 2, ONE, Now(strings::pttl)),
    read("quit", -1, NONE, Now(admin::quit)),
    read("randomkey", 1, NONE, Wait(admin::randomkey)),
    read("readonly", 1, NONE, Now(admin::ok)),
    read("readwrite", 1, NONE, Now(admin::ok)),
    read("reset", 1, NONE, Now(admin::reset)),
    read("role", 1, NONE, Now(admin::role)),
    read("scan", -2, NONE, Wait(admin::scan)),
    read("select", 2, NONE, Now(admin::select)),
    read("sentinel", -2, NONE, Now(admin::sentinel)),
    write("set", -3, ONE, Now(strings::set)),
    write("setex", 4, ONE, Now(strings::setex)),
    write("setnx", 3, ONE, Now(strings::setnx)),
    write("setrange", 4, ONE, Now(strings::setrange)),
    read("shutdown", -1, NONE, Now(admin::shutdown)),
    read("slowlog", -2, NONE, Now(admin::slowlog)),
    read("strlen", 2, ONE, Now(strings::strlen)),
    read("substr", 4, ONE, Now(strings::getrange)),
    read("time", 1, NONE, Now(admin::time)),
    read("touch", -2, ALL, Now(strings::exists)),
    read("ttl", 2, ONE, Now(strings::ttl)),
    read("type", 2, ONE, Now(strings::type_of)),
    write("unlink", -2, ALL, Now(strings::del)),
    read("wait", 3, NONE, Now(admin::wait)),
];

/// The command with this name, in any case.
pub(crate) fn find(name: &[u8]) -> Option<&'static Spec> {
    let order = |spec: &Spec| spec.name.bytes().cmp(name.iter().map(u8::to_ascii_lowercase));
    COMMANDS.binary_search_by(order).ok().and_then(|at| COMMANDS.get(at))
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
        assert!(find(b"nope").is_none());
    }
}
