//! Runs simulated clusters from the command line; `cargo xtask sim` is the way to it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use slipring_sim::{HUNTS, Mutant, Options, Plan, Report, run, run_all, shrink};

/// Runs that shrinking a failure may take.
const SHRINK_TRIES: usize = 60;
/// What stands around the figures in a Markdown file.
const BEGIN: &str = "<!-- figures begin -->";
const END: &str = "<!-- figures end -->";

/// Runs whole simulated clusters through storms of faults and checks every promise.
#[derive(Parser)]
#[command(name = "cargo xtask sim")]
struct Cli {
    /// Replay one seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run so many seeds.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// Begin with this seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Use the faults in this file, as a failing run leaves them, instead of drawing them.
    #[arg(long)]
    plan: Option<PathBuf>,
    /// So many hosts instead of 3, and 5 for every fifth seed.
    #[arg(long)]
    hosts: Option<usize>,
    /// Plant a mistake in every node, to see it caught: a name such as CountHintAsAck.
    #[arg(long)]
    mutant: Option<String>,
    /// Print the story of the run, not only that of a failure.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Leave failing plans as they are instead of looking for the fewest faults that still fail.
    #[arg(long)]
    no_shrink: bool,
    /// Where failing runs leave their story and plan.
    #[arg(long, default_value = "target/sim")]
    stories: PathBuf,
    /// Hunt every mutant as well, and write the figures of all runs into this Markdown file.
    #[arg(long, conflicts_with = "seed")]
    figures: Option<PathBuf>,
    /// Simulations at a time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// What many runs came to.
#[derive(Default)]
struct Sum {
    runs: u64,
    /// Of the runs in which no host slept for hours.
    simulated: Duration,
    /// What those took, one after the other.
    busy: Duration,
    rested: Duration,
    threads: usize,
    operations: usize,
    counts: BTreeMap<&'static str, u64>,
    failures: Vec<Report>,
    took: Duration,
}

fn main() -> ExitCode {
    match start(&Cli::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what was asked for; how many runs broke a promise.
fn start(cli: &Cli) -> Result<usize, String> {
    let plan = cli.plan.as_deref().map(read_plan).transpose()?;
    let mutant = cli.mutant.as_deref().map(mutant).transpose()?;
    let options = Options { hosts: cli.hosts, plan, mutant, ..Options::default() };
    let sum = match cli.seed {
        Some(seed) => one(seed, &options, cli.trace),
        None => many(cli, &options),
    };
    if let Some(path) = &cli.figures {
        write_figures(path, &sum)?;
    }
    for report in &sum.failures {
        tell(report, &options, cli)?;
    }
    Ok(sum.failures.len())
}

fn one(seed: u64, options: &Options, is_traced: bool) -> Sum {
    let report = run(seed, options);
    if is_traced {
        report.trace.iter().for_each(|line| println!("{line}"));
    }
    println!("{report}");
    let failures = Some(report).into_iter().filter(|report| report.verdict.is_err()).collect();
    Sum { failures, ..Sum::default() }
}

fn many(cli: &Cli, options: &Options) -> Sum {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left  {msg}");
    let bar = ProgressBar::new(cli.seeds).with_style(style.expect("the template is valid"));
    let (mut sum, began) = (Sum { threads: cli.threads, ..Sum::default() }, Instant::now());
    run_all(cli.from..cli.from + cli.seeds, cli.threads, options, |report| {
        sum.add(report);
        bar.set_message(format!("{} failed", sum.failures.len()));
        bar.inc(1);
    });
    bar.finish_and_clear();
    sum.took = began.elapsed();
    sum.rows().iter().for_each(|(what, figure)| println!("{figure:>12}  {what}"));
    sum
}

impl Sum {
    fn add(&mut self, report: Report) {
        self.runs += 1;
        if report.rested_ms == 0 {
            self.simulated += Duration::from_millis(report.simulated_ms);
            self.busy += report.took;
        }
        self.rested += Duration::from_millis(report.rested_ms);
        self.operations += report.operations;
        for (what, times) in &report.counts {
            *self.counts.entry(what).or_default() += times;
        }
        if report.verdict.is_err() {
            self.failures.push(report);
        }
    }

    /// What is worth telling, in the order of interest.
    fn rows(&self) -> Vec<(String, String)> {
        let per_second = |amount: f64| amount / self.took.as_secs_f64();
        let pace = self.simulated.as_secs_f64() / self.busy.as_secs_f64() * self.threads as f64;
        let mut rows = vec![
            (format!("seeds, {} failed", self.failures.len()), self.runs.to_string()),
            ("seeds a minute".to_owned(), format!("{:.0}", per_second(self.runs as f64 * 60.0))),
            ("simulated hours an hour, where no host sleeps for hours".to_owned(), format!("{pace:.0}")),
            (
                "hours for which clients rested while a host slept".to_owned(),
                format!("{:.1}", self.rested.as_secs_f64() / 3_600.0),
            ),
            ("operations".to_owned(), self.operations.to_string()),
        ];
        rows.extend(self.counts.iter().map(|(what, times)| ((*what).to_owned(), times.to_string())));
        rows
    }
}

/// Hunts every mutant and puts the figures between the marks of a Markdown file.
fn write_figures(path: &Path, sum: &Sum) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(failed)?;
    let marks = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = marks.ok_or_else(|| format!("{} lacks {BEGIN} or {END}", path.display()))?;
    let rows = sum.rows().into_iter().map(|(what, figure)| format!("| {what} | {figure} |\n"));
    let bar = ProgressBar::new(HUNTS.len() as u64);
    let hunts = HUNTS.iter().map(|hunt| {
        bar.inc(1);
        let (seed, checker) = match hunt.run() {
            Some(Report { seed, verdict: Err(violation), .. }) => (seed.to_string(), violation.checker),
            _ => ("SURVIVED".to_owned(), "-"),
        };
        format!("| {:?} | {} | {seed} | {checker} |\n", hunt.mutant, hunt.seeds)
    });
    let (rows, hunts): (String, String) = (rows.collect(), hunts.collect());
    let tables = format!(
        "| figure | |\n|---|--:|\n{rows}\n| mutant | seeds allowed | caught at seed | by |\n|---|--:|--:|---|\n{hunts}"
    );
    fs::write(path, format!("{before}{BEGIN}\n\n{tables}\n{END}{after}")).map_err(failed)
}

/// Leaves the story of a failing run behind, shrunk, and says how to replay it.
fn tell(report: &Report, options: &Options, cli: &Cli) -> Result<(), String> {
    let faults = report.plan.faults.len();
    let again = |seed, plan| run(seed, &Options { plan: Some(plan), ..options.clone() });
    let tries = if cli.no_shrink { 0 } else { SHRINK_TRIES };
    let least = shrink(report.clone(), tries, again);
    let failed = |error: std::io::Error| format!("{}: {error}", cli.stories.display());
    fs::create_dir_all(&cli.stories).map_err(failed)?;
    let story = cli.stories.join(format!("seed-{}.txt", least.seed));
    let plan = cli.stories.join(format!("seed-{}.plan.json", least.seed));
    let json = serde_json::to_string_pretty(&least.plan).expect("a plan is plain data");
    fs::write(&plan, json).map_err(failed)?;
    fs::write(&story, least.story()).map_err(failed)?;
    if let Err(violation) = &least.verdict {
        println!("\nseed {} breaks a promise: {violation}", least.seed);
    }
    println!("  {} of {faults} faults are enough for it:", least.plan.faults.len());
    least.plan.faults.iter().for_each(|(at, fault)| println!("    {at:>6} ms  {fault:?}"));
    println!("  the story: {}", story.display());
    println!("  replay it: cargo xtask sim --seed {} --plan {} --trace", least.seed, plan.display());
    Ok(())
}

fn read_plan(path: &Path) -> Result<Plan, String> {
    let json = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&json).map_err(|error| format!("{} is no plan: {error}", path.display()))
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let all = || Mutant::ALL.into_iter();
    let named = all().find(|mutant| format!("{mutant:?}").eq_ignore_ascii_case(name));
    named.ok_or_else(|| {
        let names: Vec<String> = all().map(|mutant| format!("{mutant:?}")).collect();
        format!("there is no mutant \"{name}\"; choose one of {}", names.join(", "))
    })
}
