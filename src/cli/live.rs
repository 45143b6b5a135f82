//! A run of many steps while it goes on: on a terminal, as a log, as `--json` events, in the journal and in
//! `systemctl status`.
//!
//! Invariant: whoever works never waits for whoever looks. Steps are told to a queue that a thread of its own writes
//! out, so a terminal that was stopped (Ctrl-S) or a pipe that nobody reads does not keep services from being started
//! again. Only notices and actions, of which there may be millions, wait while too many are unread. What was told is
//! written before [`Live::finish`] returns, and nothing afterwards.

pub mod screen;
pub mod steps;
mod view;

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};

use crate::cli::live::screen::Screen;
use crate::cli::live::steps::Steps;
use crate::cli::live::view::{Event, View};
use crate::cli::progress;
use crate::cli::render::Output;
use crate::cli::report;
use crate::cli::systemd::{Journal, Notify, Priority};
use crate::format::ObjectId;
use crate::format::set::{BackupSet, Status};
use crate::progress::{Monitor, Notice, Phase, StepEvent, StepState, StepWork, StopFlag};

/// So many events may be unread before notices and actions wait.
const MAX_UNREAD: usize = 4096;
/// How often is looked whether they still have to wait.
const UNREAD_INTERVAL: Duration = Duration::from_millis(20);

/// How often what is shown anew.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Lines on a terminal.
    pub frame: Duration,
    /// `work` objects of a step.
    pub json: Duration,
    /// Lines of a log for a step that goes on.
    pub log: Duration,
    /// The status for systemd.
    pub status: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Pace { frame: Duration::from_millis(200), json: second, log: Duration::from_secs(30), status: second }
    }
}

/// Where a view goes, and how often.
pub struct Setup {
    /// What is wanted.
    pub output: Output,
    /// Where objects for programs go.
    pub results: Box<dyn Write + Send>,
    /// Where lines for people go.
    pub messages: Box<dyn Write + Send>,
    /// How `messages` is drawn on, if it is a terminal.
    pub screen: Option<Screen>,
    /// Where lines go instead, with fields.
    pub journal: Option<Journal>,
    /// Who else is told.
    pub notify: Option<Notify>,
    /// How often.
    pub pace: Pace,
}

impl Setup {
    /// Standard output and standard error, whatever they are.
    pub fn standard(output: Output, notify: Option<Notify>) -> Self {
        Setup {
            output,
            results: Box::new(std::io::stdout()),
            messages: Box::new(std::io::stderr()),
            screen: Screen::of_standard_error().filter(|_| !output.quiet && !output.json),
            journal: Journal::from_environment(),
            notify,
            pace: Pace::default(),
        }
    }
}

/// Shows a run. Dropping it finishes it.
pub struct Live {
    output: Output,
    stop: Arc<StopFlag>,
    steps: Arc<Mutex<Steps>>,
    events: Sender<Event>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Live {
    /// A view on standard output and standard error.
    pub fn new(output: Output, stop: Arc<StopFlag>, notify: Option<Notify>) -> std::io::Result<Self> {
        Live::with(Setup::standard(output, notify), stop)
    }

    /// A view that goes elsewhere.
    pub fn with(setup: Setup, stop: Arc<StopFlag>) -> std::io::Result<Self> {
        let (events, received) = unbounded();
        let steps = Arc::new(Mutex::new(Steps::default()));
        let output = setup.output;
        let view = View::new(setup, steps.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("view".to_owned()).spawn(move || view.run(&received))?;
        Ok(Live { output, stop, steps, events, thread: Mutex::new(Some(thread)) })
    }

    /// Tells the log and the journal what was published, with its figures as fields. A terminal and `--json` are left
    /// to the report.
    pub fn published(&self, id: &ObjectId, set: &BackupSet) {
        let priority = if set.status == Status::Complete { Priority::Notice } else { Priority::Warning };
        let status = report::status(set.status);
        let message = report::sentence(id, set);
        let fields = [
            ("CAIRN_SET", id.to_string()),
            ("CAIRN_PROFILE", set.profile.clone()),
            ("CAIRN_STATUS", status.to_owned()),
            ("CAIRN_BYTES", set.bytes().to_string()),
            ("CAIRN_STORED_BYTES", set.stored_bytes().to_string()),
        ];
        self.send(Event::Said { time: jiff::Timestamp::now(), priority, message, fields: fields.to_vec() });
    }

    /// Writes out what is unread, takes away what is drawn, and ends the view. `status` is what systemd shows from now
    /// on; nothing when it is empty.
    pub fn finish(&self, status: &str) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            self.send(Event::Finish { status: status.to_owned() });
            // A view that panicked has said so.
            let _ = thread.join();
        }
    }

    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when the view has ended.
    fn send(&self, event: Event) -> bool {
        self.events.send(event).is_ok()
    }

    /// Sends what there may be much of.
    fn send_slowly(&self, event: Event) -> bool {
        while self.events.len() >= MAX_UNREAD && !self.stop.is_set() {
            std::thread::sleep(UNREAD_INTERVAL);
        }
        self.send(event)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.finish("");
    }
}

impl Monitor for Live {
    fn begin(&self, phase: Phase, total: Option<u64>) {
        let now = Instant::now();
        let mut steps = self.steps();
        steps.begin("", progress::word(phase), now);
        steps.work("", StepWork::Begin(phase, total), now);
    }

    fn advance(&self, units: u64) {
        self.within("", StepWork::Advance(units));
    }

    fn item(&self, name: &str) {
        self.within("", StepWork::Item(name));
    }

    fn action(&self, action: &'static str, path: &str) {
        self.send_slowly(Event::Action { action, path: path.to_owned() });
    }

    fn end(&self) {
        self.steps().end("");
    }

    fn step(&self, event: &StepEvent<'_>) {
        let (time, now) = (jiff::Timestamp::now(), Instant::now());
        let (step, title) = (event.step.to_owned(), event.title.to_owned());
        if event.state == StepState::Running {
            self.steps().begin(event.step, event.title, now);
            self.send(Event::Began { time, step, title });
            return;
        }
        let ran = self.steps().end(event.step);
        let took = ran.as_ref().map(|ran| now.duration_since(ran.began));
        let bytes = ran.map_or(0, |ran| ran.bytes());
        self.send(Event::Ended { time, step, title, state: event.state, detail: event.detail.to_owned(), took, bytes });
    }

    fn within(&self, step: &str, work: StepWork<'_>) {
        self.steps().work(step, work, Instant::now());
    }

    fn notice(&self, notice: Notice) {
        if !self.send_slowly(Event::Notice(notice.clone())) {
            self.output.notice(&notice);
        }
    }

    fn interrupted(&self) -> bool {
        self.stop.is_set()
    }
}
