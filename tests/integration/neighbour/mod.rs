//! What a guest notices of another one that shares its reactor, or has the reactor beside it, and does what harms.
//!
//! The short form is among the tests, with wide limits. `scripts/neighbour.sh` has the long one print a table.
//!
//! All clients are on the first core, the neighbour before the others, so that it is never it that waits for a core.
//! The reactor that it is served by has the second core. That goes for the threads of `courier_tgt` that poll nothing,
//! too, if Linux puts them there.

mod behaviour;
mod reader;

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::process::{Command as Program, Stdio};
use std::sync::Arc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::json;
use serial_test::serial;

use self::behaviour::{ALL, Behaviour, Claim, Stage};
use self::reader::{Reader, go_first, stay_on_first_core};
use crate::support::controller::Front;
use crate::support::{paths, secs};

/// The reactor that serves the neighbour.
const CORE: &str = "0x2";

/// What the neighbour saw in one go.
#[derive(Debug, Clone, Copy)]
struct Seen {
    slowest: Duration,
    /// One in 10,000 was slower.
    slow: Duration,
    iops: f64,
    /// How long the reactor waited for its core.
    waited: Duration,
}

/// What it saw before a behaviour and beside it.
#[derive(Debug, Clone, Copy)]
struct Pair {
    idle: Seen,
    beside: Seen,
    /// How often the other guest did in a second what it does.
    rate: f64,
}

/// A `courier_tgt` with a neighbour.
struct Street {
    front: Arc<Front>,
    reader: Reader,
}

impl Street {
    fn start(mask: &str) -> Self {
        let front = Arc::new(Front::start_with_pools_on(mask));
        go_before_others(&front);
        front.malloc("disk", 16, 512);
        let dir = paths::new_dir("neighbour");
        front.rpc.ok("courier_controller_create", &json!({ "name": "neighbour", "traddr": dir, "cpumask": CORE }));
        front.rpc.ok("courier_controller_add_ns", &json!({ "name": "neighbour", "bdev_name": "disk" }));
        let reader = Reader::start(&dir);
        Self { front, reader }
    }

    /// Returns what the neighbour sees before and beside a behaviour, for which there is a stage.
    fn pair(&mut self, behaviour: &Behaviour, stage: &Stage<'_>, time: Duration) -> Pair {
        let idle = self.measure(time);
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                stay_on_first_core();
                behaviour.act(stage);
            });
            // Also when this one fails.
            let _stop = StopAtEnd(stage);
            let start = Instant::now();
            while stage.rounds() == 0 {
                assert!(!other.is_finished() && start.elapsed() < secs(30), "'{}' does not begin", behaviour.name);
                sleep(Duration::from_millis(1));
            }
            let (begun, before) = (Instant::now(), stage.rounds());
            let beside = self.measure(time);
            #[expect(clippy::cast_precision_loss, reason = "it is shown")]
            let rate = (stage.rounds() - before) as f64 / begun.elapsed().as_secs_f64();
            Pair { idle, beside, rate }
        })
    }

    /// Measures, half of the time latencies and half of it IOPS, on a thread of its own.
    fn measure(&mut self, time: Duration) -> Seen {
        let Self { front, reader } = self;
        let measure = move || {
            go_first();
            let waited = time_without_core(front);
            let latencies = reader.latencies(time / 2);
            let iops = reader.iops(|elapsed| elapsed >= time / 2);
            let slow = latencies[(latencies.len() - 1) * 9_999 / 10_000];
            let slowest = latencies.last().copied().unwrap_or_default();
            Seen { slowest, slow, iops, waited: time_without_core(front).saturating_sub(waited) }
        };
        thread::scope(|scope| scope.spawn(measure).join()).expect("the neighbour is served")
    }
}

struct StopAtEnd<'a>(&'a Stage<'a>);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Returns the threads of a process, by their numbers and names.
fn threads_of(front: &Front) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", front.process.pid())).expect("it runs");
    let thread = |task: fs::DirEntry| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        Some((task.file_name().into_string().ok()?, name.trim().to_owned()))
    };
    tasks.flatten().filter_map(thread).collect()
}

/// Lets all threads of `courier_tgt` alike go before what else the machine does, if the system lets it.
fn go_before_others(front: &Front) {
    for (thread, _) in threads_of(front) {
        let mut renice = Program::new("renice");
        renice.args(["-n", "-20", "-p", &thread]).stdout(Stdio::null()).stderr(Stdio::null());
        let _ = renice.status();
    }
}

/// Returns how long the neighbour's reactor has waited for its core, in all.
fn time_without_core(front: &Front) -> Duration {
    let threads = threads_of(front);
    let (reactor, _) = threads.iter().find(|(_, name)| name == "reactor_1").expect("a reactor has the second core");
    let path = format!("/proc/{}/task/{reactor}/schedstat", front.process.pid());
    let text = fs::read_to_string(path).expect("it runs");
    let nanos = text.split_whitespace().nth(1).and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("the kernel tells numbers"))
}

impl Pair {
    /// Returns what of its IOPS is left to the neighbour.
    fn kept(&self) -> f64 {
        self.beside.iops / self.idle.iops
    }

    /// Returns the same, of what it is entitled to. Beside an honest guest that reads as much it keeps `honest`.
    fn kept_of_share(&self, claim: Claim, honest: f64) -> f64 {
        self.kept() / if claim == Claim::Half { honest } else { 1.0 }
    }
}

/// The slowest read, on a machine that is busy with other things, may take so much longer than without the other guest.
const NOTICEABLE: Duration = Duration::from_millis(150);
/// And so much of its fair share is left, at least.
const LEFT: f64 = 0.3;

#[test]
#[serial]
fn a_neighbour_keeps_its_latency_and_its_share_whatever_another_guest_does() {
    const TRIES: usize = 3;
    let mut street = Street::start(CORE);
    let front = Arc::clone(&street.front);
    // Their pools stay as they are.
    let mut stages = Vec::new();
    for behaviour in ALL {
        // What else the machine does may be in the way of one, not of all.
        for left in (0..TRIES).rev() {
            let stage = behaviour.stage(&front, stages.len(), CORE);
            let pair = street.pair(behaviour, &stage, Duration::from_millis(200));
            stages.push(stage);
            eprintln!("{}: {pair:?}", behaviour.name);
            let latency = pair.beside.slowest < pair.idle.slowest + NOTICEABLE;
            if latency && pair.kept_of_share(behaviour.claim, 0.5) > LEFT {
                break;
            }
            assert!(left > 0, "a guest that {}: {pair:?}", behaviour.name);
        }
    }
    street.front.assert_alive();
}

/// Prints a table for people.
fn measure_all(mask: &str, cores: &str) {
    let setting = |name: &str, default: u32| -> u32 {
        env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let pairs = setting("COURIER_NEIGHBOUR_PAIRS", 3);
    let time = Duration::from_millis(setting("COURIER_NEIGHBOUR_MILLISECONDS", 2_000).into());
    let only = env::var("COURIER_NEIGHBOUR_ONLY").unwrap_or_default();
    let mut table = String::from(
        "| the other guest | per second | slowest read: before, ms | beside, ms | 99.99 %: before, ms | beside, ms | IOPS before \
         | kept | of its fair share | reactor waited for its core: before, ms | beside, ms |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut honest = 0.5;
    for (index, behaviour) in ALL.iter().enumerate().filter(|(_, behaviour)| behaviour.name.contains(&only)) {
        let pairs: Vec<Pair> = (0..pairs)
            .map(|_| {
                let mut street = Street::start(mask);
                let front = Arc::clone(&street.front);
                let stage = behaviour.stage(&front, 0, cores);
                let pair = street.pair(behaviour, &stage, time);
                eprintln!("{}: {pair:?}", behaviour.name);
                pair
            })
            .collect();
        if index == 0 {
            honest = median(&pairs, Pair::kept);
        }
        table.push_str(&line(behaviour, &pairs, honest));
    }
    println!("{table}");
}

fn median(pairs: &[Pair], of: impl Fn(&Pair) -> f64) -> f64 {
    let mut values: Vec<f64> = pairs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    f64::midpoint(values[values.len() / 2], values[(values.len() - 1) / 2])
}

/// Returns a behaviour's line of the table.
fn line(behaviour: &Behaviour, pairs: &[Pair], honest: f64) -> String {
    let slowest = |of: fn(&Pair) -> Duration| {
        let longest = pairs.iter().map(of).max().unwrap_or_default();
        format!("{:.2}", longest.as_secs_f64() * 1_000.0)
    };
    let mut line = format!("| {} ", behaviour.name);
    let _ = write!(line, "| {:.0} ", median(pairs, |pair| pair.rate));
    let _ = write!(line, "| {} | {} ", slowest(|pair| pair.idle.slowest), slowest(|pair| pair.beside.slowest));
    let _ = write!(line, "| {} | {} ", slowest(|pair| pair.idle.slow), slowest(|pair| pair.beside.slow));
    let _ = write!(line, "| {:.0} | {:.2} ", median(pairs, |pair| pair.idle.iops), median(pairs, Pair::kept));
    let _ = write!(line, "| {:.2} ", median(pairs, |pair| pair.kept_of_share(behaviour.claim, honest)));
    let _ = writeln!(line, "| {} | {} |", slowest(|pair| pair.idle.waited), slowest(|pair| pair.beside.waited));
    line
}

#[test]
#[ignore = "it measures, for some minutes: scripts/neighbour.sh"]
#[serial]
fn table_of_one_reactor() {
    measure_all(CORE, CORE);
}

#[test]
#[ignore = "it measures, for some minutes: scripts/neighbour.sh --two"]
#[serial]
fn table_of_two_reactors() {
    measure_all("0x3", "0x1");
}
