//! A kind that panics, or that makes what cannot be kept, costs one command and not the shard.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{End, Subject};
use crate::entity::erased::Error;
use crate::entity::{Context, Decision, Entity, Registry, Rejection};
use crate::record::REPLY_BYTES_MAX;

/// Misbehaves on request.
struct Rogue;

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
struct State {
    text: String,
    #[serde(default)]
    poisoned: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Command {
    Write { text: String },
    PanicInDecide,
    PanicInEvolve,
    PanicInReading { _fuse: Fuse },
    PanicInSnapshot,
    UnreadableEvent,
    LongReply,
    ManyEvents,
    LongEvent,
    BadCode,
    LongRejection,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Event {
    Written { text: String },
    HalfWritten,
    Poisoned,
    Measured { value: f64 },
}

/// Panics when it is read, unless it is asked without a value, as at registration.
#[derive(JsonSchema)]
struct Fuse;

impl<'de> Deserialize<'de> for Fuse {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bool::deserialize(deserializer)?;
        panic!("the fuse blew")
    }
}

#[derive(Debug)]
enum Refusal {
    BadCode,
    Long,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&"no ".repeat(10_000))
    }
}

impl Rejection for Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::BadCode => "Not A Code",
            Self::Long => "long",
        }
    }
}

impl Entity for Rogue {
    const KIND: &'static str = "rogue";
    type State = State;
    type Command = Command;
    type Event = Event;
    type Reply = String;
    type Rejection = Refusal;

    fn decide(&self, _: &State, command: &Command, _: &Context<'_>) -> Result<Decision<Event, String>, Refusal> {
        let decision = match command {
            Command::Write { text } => Decision::event(Event::Written { text: text.clone() }),
            Command::PanicInDecide => panic!("no decision"),
            Command::PanicInEvolve => Decision::events([Event::Written { text: "half".into() }, Event::HalfWritten]),
            Command::PanicInReading { .. } | Command::LongReply => Decision::no_change(),
            Command::PanicInSnapshot => Decision::event(Event::Poisoned),
            Command::UnreadableEvent => Decision::event(Event::Measured { value: f64::NAN }),
            Command::ManyEvents => Decision::events((0..2_000).map(|_| Event::Written { text: String::new() })),
            Command::LongEvent => Decision::event(Event::Written { text: "x".repeat(1024 * 1024) }),
            Command::BadCode => return Err(Refusal::BadCode),
            Command::LongRejection => return Err(Refusal::Long),
        };
        let reply = if matches!(command, Command::LongReply) { "x".repeat(REPLY_BYTES_MAX) } else { String::new() };
        Ok(decision.reply(reply))
    }

    fn evolve(state: &mut State, event: &Event) {
        match event {
            Event::Written { text } => state.text.clone_from(text),
            Event::HalfWritten => panic!("half way"),
            Event::Poisoned => state.poisoned = true,
            Event::Measured { .. } => {}
        }
    }
}

fn rogue() -> Subject {
    let mut subject = Subject::new(&Registry::new().add(Rogue).unwrap(), "rogue");
    subject.run("write", br#"{"text":"before"}"#);
    subject
}

/// The entity is what it was, and takes the next command.
fn assert_unharmed(mut subject: Subject) {
    assert_eq!(subject.state(), json!({"text": "before", "poisoned": false}));
    assert!(matches!(subject.run("write", br#"{"text":"after"}"#), End::Accepted(..)));
    assert_eq!(subject.state(), json!({"text": "after", "poisoned": false}));
    assert_eq!(subject.history.len(), 2);
}

#[test]
fn a_panicking_command_changes_nothing() {
    for (command, body, action, message) in [
        ("panic-in-decide", "", "decide", "no decision"),
        ("panic-in-evolve", "", "decide", "half way"),
        ("panic-in-reading", r#"{"_fuse":true}"#, "reading a command", "the fuse blew"),
    ] {
        let mut subject = rogue();
        match subject.try_run(command, body.as_bytes()) {
            Err(Error::Panicked { kind, action: at, message: text }) => {
                assert_eq!((kind, at, text.as_str()), ("rogue", action, message));
            }
            other => panic!("{command}: {other:?}"),
        }
        assert_unharmed(subject);
    }
}

#[test]
fn a_panicking_fold_is_an_error_and_leaves_other_holders_their_state() {
    let subject = rogue();
    let event = crate::record::EventBody { event_type: "half-written".into(), data: "{}".into() };
    let error = subject.kind.evolve(subject.state.clone(), &event).unwrap_err();
    assert!(matches!(error, Error::Panicked { action: "evolve", .. }), "{error}");
    assert_unharmed(subject);
}

#[test]
fn an_event_that_could_not_be_read_back_is_never_decided() {
    let mut subject = rogue();
    let error = subject.try_run("unreadable-event", b"").unwrap_err();
    assert!(matches!(error, Error::EventUnreadable { .. }), "{error}");
    assert_unharmed(subject);
}

#[test]
fn what_is_too_large_is_not_decided() {
    for (command, expected) in
        [("long-reply", "the reply"), ("many-events", "the events"), ("long-event", "the event data")]
    {
        let mut subject = rogue();
        match subject.try_run(command, b"") {
            Err(Error::TooLarge { what, .. }) => assert_eq!(what, expected),
            other => panic!("{command}: {other:?}"),
        }
        assert_unharmed(subject);
    }
}

#[test]
fn rejections_are_kept_in_form() {
    let mut subject = rogue();
    assert!(matches!(subject.try_run("bad-code", b""), Err(Error::RejectionCode { code: "Not A Code", .. })));
    assert_eq!(subject.run("long-rejection", b""), End::Rejected("long"));
    assert_unharmed(subject);
}

#[test]
fn folding_copies_a_state_only_while_another_holds_it() {
    /// Notices when it is copied.
    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    struct Watched(u64);
    static COPIED: AtomicBool = AtomicBool::new(false);
    impl Clone for Watched {
        fn clone(&self) -> Self {
            COPIED.store(true, Ordering::Relaxed);
            Self(self.0)
        }
    }
    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    enum Step {
        Up,
    }
    struct Stair;
    impl Entity for Stair {
        const KIND: &'static str = "stair";
        type State = Watched;
        type Command = Step;
        type Event = Step;
        type Reply = ();
        type Rejection = std::convert::Infallible;
        fn decide(&self, _: &Watched, _: &Step, _: &Context<'_>) -> Result<Decision<Step>, Self::Rejection> {
            Ok(Decision::event(Step::Up))
        }
        fn evolve(state: &mut Watched, _: &Step) {
            state.0 += 1;
        }
    }

    let kind = Registry::new().add(Stair).unwrap().get("stair").unwrap().clone();
    let up = crate::record::EventBody { event_type: "up".into(), data: "{}".into() };
    let mut state = kind.evolve(kind.initial(), &up).unwrap();
    assert!(COPIED.swap(false, Ordering::Relaxed), "the initial state has another holder, the kind");
    for _ in 0..100 {
        state = kind.evolve(state, &up).unwrap();
    }
    assert!(!COPIED.load(Ordering::Relaxed));
    let reader = state.clone();
    let state = kind.evolve(state, &up).unwrap();
    assert!(COPIED.load(Ordering::Relaxed));
    assert_eq!(
        (&kind.state_json(&reader).unwrap()[..], &kind.state_json(&state).unwrap()[..]),
        (&b"101"[..], &b"102"[..])
    );
}
