//! The thread that writes what a run tells.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use jiff::Timestamp;
use serde_json::json;

use crate::cli::live::Setup;
use crate::cli::live::screen::Drawn;
use crate::cli::live::steps::{Step, Steps, Work};
use crate::cli::progress;
use crate::cli::render::{bytes, notice_fields, notice_line, object, visible};
use crate::cli::report::duration;
use crate::cli::systemd::{self, Priority};
use crate::progress::{Notice, Phase, StepState, StopFlag};

/// How much time for undoing is asked for at a time.
const MORE_TIME: Duration = Duration::from_secs(60);

/// What is told.
pub enum Event {
    /// A step has begun.
    Began { time: Timestamp, step: String, title: String },
    /// A step has ended.
    Ended {
        time: Timestamp,
        step: String,
        title: String,
        state: StepState,
        detail: String,
        took: Option<Duration>,
        bytes: u64,
    },
    /// [`crate::progress::Monitor::action`].
    Action { action: &'static str, path: String },
    /// [`crate::progress::Monitor::notice`].
    Notice(Notice),
    /// Something for the log.
    Said { time: Timestamp, priority: Priority, message: String, fields: Vec<(&'static str, String)> },
    /// Nothing comes after this.
    Finish { status: String },
}

/// Writes events and, at its pace, how far the steps are.
pub struct View {
    setup: Setup,
    steps: Arc<Mutex<Steps>>,
    stop: Arc<StopFlag>,
    drawn: Drawn,
    status: String,
    status_at: Option<Instant>,
    stopping: bool,
}

impl View {
    pub fn new(setup: Setup, steps: Arc<Mutex<Steps>>, stop: Arc<StopFlag>) -> Self {
        let (drawn, status) = (Drawn::default(), String::new());
        View { setup, steps, stop, drawn, status, status_at: None, stopping: false }
    }

    /// Writes until the end is told.
    pub fn run(mut self, events: &Receiver<Event>) {
        let frame = self.setup.pace.frame;
        let mut next = Instant::now() + frame;
        loop {
            match events.recv_deadline(next) {
                Ok(Event::Finish { status }) => return self.end(&status),
                Ok(event) => self.write(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.end(""),
            }
            if Instant::now() >= next {
                self.tick();
                next = Instant::now() + frame;
            }
        }
    }

    fn end(mut self, status: &str) {
        if !self.drawn.is_empty() {
            self.draw(&[], &[]);
        }
        if let Some(notify) = self.setup.notify.as_ref().filter(|_| !status.is_empty()) {
            notify.status(&visible(status));
        }
    }

    fn write(&mut self, event: Event) {
        match event {
            Event::Began { time, step, title } => {
                let fields = json!({ "time": time, "step": step, "title": title, "state": StepState::Running.word() });
                self.object("step", fields);
                if self.setup.screen.is_some() {
                    self.redraw(&[]);
                } else {
                    let text = log_line(StepState::Running.word(), &step, &title, "", "");
                    let fields = [("CAIRN_STEP", step), ("CAIRN_STATE", StepState::Running.word().to_owned())];
                    self.say(time, Priority::Info, &text, &fields);
                }
            }
            Event::Ended { .. } => self.ended(event),
            Event::Action { action, path } => {
                self.object("action", json!({ "action": action, "path": path }));
                if !self.setup.output.json {
                    self.above(|results| writeln!(results, "{action} {}", visible(&path)));
                }
            }
            Event::Notice(notice) => self.notice(&notice),
            Event::Said { time, priority, message, fields } if self.setup.screen.is_none() => {
                self.say(time, priority, &visible(&message), &fields);
            }
            Event::Said { .. } | Event::Finish { .. } => {}
        }
    }

    fn ended(&mut self, event: Event) {
        let Event::Ended { time, step, title, state, detail, took, bytes } = event else { return };
        let milliseconds = took.map(|took| took.as_millis() as u64);
        let fields = json!({
            "time": time, "step": step, "title": title, "state": state.word(), "detail": detail,
            "milliseconds": milliseconds, "bytes": bytes,
        });
        self.object("step", fields);
        let figures = figures(took, bytes);
        if let Some(screen) = &self.setup.screen {
            let line = screen.ended(state, &title, &figures, &detail);
            return self.redraw(&[line]);
        }
        let mut fields = vec![("CAIRN_STEP", step.clone()), ("CAIRN_STATE", state.word().to_owned())];
        fields.extend(milliseconds.map(|milliseconds| ("CAIRN_MILLISECONDS", milliseconds.to_string())));
        fields.push(("CAIRN_BYTES", bytes.to_string()));
        if !detail.is_empty() {
            fields.push(("CAIRN_DETAIL", detail.clone()));
        }
        let text = log_line(state.word(), &step, &title, &figures, &detail);
        self.say(time, priority(state), &text, &fields);
    }

    fn notice(&mut self, notice: &Notice) {
        self.object("notice", notice_fields(notice));
        let text = visible(&notice_line(notice));
        match &self.setup.screen {
            Some(screen) => {
                let line = screen.shown(&text);
                self.redraw(&[line]);
            }
            None => {
                let fields = [("CAIRN_SUBJECT", notice.subject.clone())];
                self.line(Priority::Warning, &text, &text, &fields);
            }
        }
    }

    /// Shows how far everything is, each at its pace.
    fn tick(&mut self) {
        if self.stop.is_set() && !self.stopping {
            self.stopping = true;
            self.confirm_stop();
        }
        self.redraw(&[]);
        let now = Instant::now();
        if self.setup.output.json {
            self.tell_work(now);
        } else if self.setup.screen.is_none() {
            self.log_long_steps(now);
        }
        self.tell_manager(now);
    }

    /// Says that the wish to stop was heard: it can take a while until something else is seen of it.
    fn confirm_stop(&mut self) {
        let text = "stopping: what this run changed is undone first, which nothing ends but its end";
        if self.setup.screen.is_some() {
            self.redraw(&[text.to_owned()]);
        } else {
            self.say(Timestamp::now(), Priority::Notice, text, &[]);
        }
    }

    fn tell_work(&mut self, now: Instant) {
        let pace = self.setup.pace.json;
        let told = self.with_steps(now, |step| {
            let far = Some((step.work.as_ref().map(|work| work.done), step.item.clone()));
            let says = step.work.is_some() || !step.item.is_empty();
            let due = says && now.duration_since(step.told) >= pace && step.told_far != far;
            let fields = due.then(|| work_fields(step, now))?;
            (step.told, step.told_far) = (now, far);
            Some(fields)
        });
        told.into_iter().for_each(|fields| self.object("work", fields));
    }

    fn log_long_steps(&mut self, now: Instant) {
        let pace = self.setup.pace.log;
        let lines = self.with_steps(now, |step| {
            if now.duration_since(step.told) < pace {
                return None;
            }
            step.told = now;
            let elapsed = duration(now.duration_since(step.began).as_millis() as u64);
            let figures = format!("{elapsed} so far");
            let far = step.work.as_ref().map_or_else(|| step.item.clone(), |work| far(work, now));
            let fields = [
                ("CAIRN_STEP", step.id.clone()),
                ("CAIRN_STATE", "working".to_owned()),
                ("CAIRN_BYTES", step.bytes().to_string()),
            ];
            Some((log_line("working", &step.id, &step.title, &figures, &far), fields))
        });
        for (text, fields) in lines {
            self.say(Timestamp::now(), Priority::Info, &text, &fields);
        }
    }

    fn tell_manager(&mut self, now: Instant) {
        let pace = self.setup.pace.status;
        if self.setup.notify.is_none() || self.status_at.is_some_and(|at| now.duration_since(at) < pace) {
            return;
        }
        let parts = self.with_steps(now, |step| {
            let title = visible(&step.title);
            Some(match &step.work {
                Some(work) => format!("{title}: {}", far(work, now)),
                None if !step.item.is_empty() => format!("{title}: {}", visible(&step.item)),
                None => title,
            })
        });
        let stopping = self.stop.is_set();
        let status = format!("{}{}", if stopping { "stopping: " } else { "" }, parts.join("; "));
        let Some(notify) = &self.setup.notify else { return };
        if stopping {
            // Whoever asked for the stop would kill us before the platform works again.
            notify.extend(MORE_TIME);
        }
        if status != self.status && !parts.is_empty() {
            notify.status(&status);
            self.status = status;
        }
        self.status_at = Some(now);
    }

    /// What `of` makes of the steps that run.
    fn with_steps<T>(&self, now: Instant, of: impl FnMut(&mut Step) -> Option<T>) -> Vec<T> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).look(now).iter_mut().filter_map(of).collect()
    }

    /// An object for programs.
    fn object(&mut self, kind: &str, fields: serde_json::Value) {
        if !self.setup.output.json {
            return;
        }
        if let Ok(line) = object(kind, fields) {
            // Whoever closed our output is told by the summary that cannot be printed either.
            let _ = writeln!(self.setup.results, "{line}");
            let _ = self.setup.results.flush();
        }
    }

    /// A line for people, with its time where nobody else adds that.
    fn say(&mut self, time: Timestamp, priority: Priority, text: &str, fields: &[(&str, String)]) {
        let matters = (priority as u8) <= Priority::Error as u8;
        if self.setup.output.json || (self.setup.output.quiet && !matters) {
            return;
        }
        let timed = format!("{} {text}", time.strftime("%Y-%m-%dT%H:%M:%SZ"));
        self.line(priority, text, &timed, fields);
    }

    /// A line to the journal, or, where there is none, a slightly other one to standard error.
    fn line(&mut self, priority: Priority, text: &str, otherwise: &str, fields: &[(&str, String)]) {
        if let Some(journal) = &self.setup.journal {
            let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            if !journal.entry(priority, text, &fields) {
                let _ = writeln!(self.setup.messages, "{}", systemd::line(priority, text));
            }
        } else {
            let _ = writeln!(self.setup.messages, "{otherwise}");
        }
    }

    /// Prints a result while nothing is drawn.
    fn above(&mut self, print: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) {
        if !self.drawn.is_empty() {
            self.draw(&[], &[]);
        }
        let _ = print(&mut self.setup.results);
        let _ = self.setup.results.flush();
    }

    /// Draws the steps that run below these lines.
    fn redraw(&mut self, ended: &[String]) {
        let Some(screen) = &self.setup.screen else { return };
        let (size, now) = ((screen.size)(), Instant::now());
        let mut running = self.with_steps(now, |step| Some(screen.running(step, now, size.columns)));
        // What has scrolled off the top cannot be taken back.
        running.truncate(size.rows.saturating_sub(1));
        if !ended.is_empty() || !running.is_empty() || !self.drawn.is_empty() {
            self.draw(ended, &running);
        }
    }

    fn draw(&mut self, ended: &[String], running: &[String]) {
        let Some(screen) = &self.setup.screen else { return };
        let frame = self.drawn.replace(ended, running, (screen.size)().columns);
        // In one write: nobody sees half of it. A terminal that went away is no reason to stop.
        let _ = self.setup.messages.write_all(frame.as_bytes());
        let _ = self.setup.messages.flush();
    }
}

fn priority(state: StepState) -> Priority {
    match state {
        StepState::Running | StepState::Done => Priority::Info,
        StepState::Failed => Priority::Error,
        StepState::Undone => Priority::Notice,
        StepState::Stuck => Priority::Critical,
    }
}

/// `done    stop-first:x  Stop x (2.1 s): inactive`
fn log_line(state: &str, step: &str, title: &str, figures: &str, detail: &str) -> String {
    let parts = [step, title].into_iter().filter(|part| !part.is_empty()).map(visible);
    let mut line = format!("{state:<7} {}", parts.collect::<Vec<_>>().join("  "));
    if !figures.is_empty() {
        line.push_str(&format!(" ({figures})"));
    }
    if !detail.is_empty() {
        line.push_str(": ");
        line.push_str(&visible(detail));
    }
    line
}

/// How long a step took, and how many bytes it worked on at what rate.
fn figures(took: Option<Duration>, worked: u64) -> String {
    let Some(took) = took else { return String::new() };
    let time = duration(took.as_millis() as u64);
    if worked == 0 {
        return time;
    }
    let seconds = took.as_secs_f64();
    let rate = if seconds > 0.0 { format!(", {}/s", bytes((worked as f64 / seconds) as u64)) } else { String::new() };
    format!("{time}, {}{rate}", bytes(worked))
}

/// `backing up 1.20 GiB of 3.40 GiB, 120.00 MiB/s, 19.2 s left`
fn far(work: &Work, now: Instant) -> String {
    let left = work.left(now).map(|left| format!("{} left", duration(left.as_millis() as u64)));
    let parts = [format!("{} {}", progress::word(work.phase), work.far()), work.speed(now), left.unwrap_or_default()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

fn work_fields(step: &Step, now: Instant) -> serde_json::Value {
    let work = step.work.as_ref();
    let unit = |work: &Work| if progress::counts_bytes(work.phase) { "bytes" } else { "items" };
    json!({
        "step": step.id,
        "phase": work.map(|work| phase_name(work.phase)),
        "unit": work.map(unit),
        "done": work.map(|work| work.done),
        "total": work.and_then(|work| work.total),
        "per_second": work.map(|work| work.rate(now) as u64),
        "item": step.item,
    })
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Index => "index",
        Phase::Backup => "backup",
        Phase::Restore => "restore",
        Phase::Check => "check",
        Phase::ReadData => "read-data",
        Phase::Mark => "mark",
        Phase::Sweep => "sweep",
        Phase::Search => "search",
        Phase::Compare => "compare",
    }
}
