//! The figures of docs/membership.md, measured on simulated time and printed as Markdown.
//!
//! `cargo bench -p slipring-membership` prints all; words after `--` pick among
//! `detection`, `traffic`, `starved` and the sizes `10`, `100`, `1000`. The same build prints the same numbers each time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench may fail loudly")]

#[path = "../simulation/world.rs"]
mod world;

use std::time::Duration;

use slipring_membership::{Effect, Settings};
use world::{World, id};

const SIZES: [usize; 3] = [10, 100, 1_000];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let (sizes, tables): (Vec<String>, Vec<String>) =
        words.into_iter().partition(|word| word.parse::<usize>().is_ok());
    let is_wanted = |name: &str| tables.is_empty() || tables.iter().any(|word| word == name);
    let is_size = |size: usize| sizes.is_empty() || sizes.contains(&size.to_string());
    let each = |lengths: [u64; 3], run: &dyn Fn(usize, u64)| {
        let rows = SIZES.into_iter().zip(lengths).filter(|(size, _)| is_size(*size));
        rows.for_each(|(size, length)| run(size, length));
    };
    if is_wanted("detection") {
        println!(
            "\n| nodes | preset | deaths | first sees it, median | each sees it, median | p99 | last, worst |"
        );
        println!("|--:|---|--:|--:|--:|--:|--:|");
        each([100, 30, 5], &|size, deaths| detection("lan", &Settings::lan(), size, deaths));
        if is_size(100) {
            detection("wan", &Settings::wan(), 100, 10);
            detection("plain SWIM", &plain(), 100, 30);
        }
        if is_size(10) {
            detection("local", &Settings::local(), 10, 100);
        }
    }
    if is_wanted("traffic") {
        println!("\n| nodes | simulated | datagrams/node/s | bytes/node/s | false downs per node-hour |");
        println!("|--:|--:|--:|--:|--:|");
        each([36_000, 3_600, 300], &traffic);
    }
    if is_wanted("starved") {
        println!(
            "\n| nodes | starved | simulated | paused | false downs, plain SWIM | false downs, Slipring | ratio |"
        );
        println!("|--:|--:|--:|--:|--:|--:|--:|");
        each([36_000, 3_600, 120], &starved);
    }
}

/// The same machine without local health and without streams.
fn plain() -> Settings {
    Settings { is_health_aware: false, is_stream_probing: false, ..Settings::lan() }
}

/// Kills a node, waits until all know, brings it back, again and again.
fn detection(name: &str, settings: &Settings, size: usize, deaths: u64) {
    let mut world = World::cluster(1, settings.clone(), size);
    let (mut all, mut firsts, mut lasts) = (Vec::new(), Vec::new(), Vec::new());
    for death in 0..deaths {
        let victim = (usize::try_from(death).unwrap() * 7 + 3) % size;
        world.notes.clear();
        world.kill(victim);
        let began = world.now;
        world.run_until(Duration::from_secs(600), World::is_complete).expect("all notice");
        let downs = world.notes.iter().filter(|note| note.effect == Effect::Down(id(victim)));
        let mut times: Vec<u64> = downs.map(|note| note.at.0 - began).collect();
        times.sort_unstable();
        firsts.push(times[0]);
        lasts.push(*times.last().unwrap());
        all.extend(times);
        world.start(victim);
        world.run_until(Duration::from_secs(600), World::is_complete).expect("it is back");
        world.run(Duration::from_secs(20));
    }
    [&mut all, &mut firsts, &mut lasts].into_iter().for_each(|times| times.sort_unstable());
    let seconds = |us: u64| us as f64 / 1e6;
    println!(
        "| {size} | {name} | {deaths} | {:.1} s | {:.1} s | {:.1} s | {:.1} s |",
        seconds(firsts[firsts.len() / 2]),
        seconds(all[all.len() / 2]),
        seconds(all[(all.len() - 1) * 99 / 100]),
        seconds(*lasts.last().unwrap()),
    );
}

fn traffic(size: usize, seconds: u64) {
    let mut world = World::cluster(2, Settings::lan(), size);
    let sum = |world: &World| {
        let sent: u64 = world.nodes.iter().map(|node| node.sent).sum();
        let bytes: u64 = world.nodes.iter().map(|node| node.sent_bytes).sum();
        (sent as f64, bytes as f64)
    };
    let (before, falsely) = (sum(&world), world.false_downs);
    world.run(Duration::from_secs(seconds));
    let (after, falsely) = (sum(&world), world.false_downs - falsely);
    let node_seconds = (size as u64 * seconds) as f64;
    println!(
        "| {size} | {seconds} s | {:.2} | {:.0} | {:.4} ({falsely} in {:.0} h) |",
        (after.0 - before.0) / node_seconds,
        (after.1 - before.1) / node_seconds,
        falsely as f64 / (node_seconds / 3_600.0),
        node_seconds / 3_600.0,
    );
}

/// A tenth of the nodes paused again and again.
fn starved(size: usize, seconds: u64) {
    // Larger clusters suspect for longer, so that a pause must be longer to do harm.
    let (pause, period) = if size < 1_000 { (5, 20) } else { (11, 30) };
    let falsely_down = |settings: Settings| {
        let mut world = World::cluster(3, settings, size);
        (0..size / 10).for_each(|node| {
            world.starve(node * 10, Duration::from_secs(pause), Duration::from_secs(period))
        });
        world.run(Duration::from_secs(seconds));
        world.false_downs
    };
    let (plain, aware) = (falsely_down(plain()), falsely_down(Settings::lan()));
    let ratio = if plain == 0 {
        "-".to_owned()
    } else if aware == 0 {
        format!("over {plain}")
    } else {
        format!("{:.0}", plain as f64 / aware as f64)
    };
    println!(
        "| {size} | {} | {seconds} s | {pause} of {period} s | {plain} | {aware} | {ratio} |",
        size / 10
    );
}
