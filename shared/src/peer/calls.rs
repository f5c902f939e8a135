//! The calls of a client that wait for their answer: a slab of slots, reused without allocation. A correlation id is a
//! slot and its generation, so that an answer which comes after its call was given up finds nobody. Pure, but for wakers.

use std::mem;
use std::task::Waker;

use bytes::Bytes;

use super::client::{CallError, NotSent};
use super::frame::CorrelationId;
use crate::seam::BootInstant;

/// Invariant: at most `limit` slots, each either in `vacant` or taken by exactly one call.
#[derive(Debug)]
pub(super) struct Calls {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    limit: usize,
    /// No waiting call's deadline is earlier. It may be too early, after that call ended; then a look costs one sweep.
    earliest: Option<BootInstant>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Vacant,
    Waiting { deadline: BootInstant, frame_end: u64, waker: Waker },
    Answered(Result<Bytes, CallError>),
}

impl Calls {
    pub(super) fn new(limit: usize) -> Self {
        Self { slots: Vec::new(), vacant: Vec::new(), limit, earliest: None }
    }

    /// How many calls hold a slot.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.len() < self.limit
    }

    /// Takes a slot. The caller has asked [`Calls::has_room`], and calls [`Calls::set_frame_end`] with what it appends.
    pub(super) fn begin(&mut self, deadline: BootInstant, waker: Waker) -> CorrelationId {
        self.earliest = Some(self.earliest.map_or(deadline, |e| e.min(deadline)));
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, state: State::Vacant });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.state = State::Waiting { deadline, frame_end: u64::MAX, waker };
        CorrelationId(u64::from(slot.generation) << 32 | u64::from(index))
    }

    /// Where the request's frame ends in the connection's stream: written up to there, it may have been executed.
    pub(super) fn set_frame_end(&mut self, id: CorrelationId, end: u64) {
        if let Some(Slot { state: State::Waiting { frame_end, .. }, .. }) = self.slot(id) {
            *frame_end = end;
        }
    }

    /// Gives a waiting call its answer, and returns whom to wake once the lock is released.
    #[must_use]
    pub(super) fn answer(&mut self, id: CorrelationId, answer: Result<Bytes, CallError>) -> Option<Waker> {
        let slot = self.slot(id)?;
        if !matches!(slot.state, State::Waiting { .. }) {
            return None;
        }
        match mem::replace(&mut slot.state, State::Answered(answer)) {
            State::Waiting { waker, .. } => Some(waker),
            _ => None,
        }
    }

    /// The answer, which frees the slot; or notes whom to wake for it.
    pub(super) fn poll(&mut self, id: CorrelationId, new_waker: &Waker) -> Option<Result<Bytes, CallError>> {
        // A slot is freed only by its call, so this finds it; were it not so, the outcome would be unknown.
        let Some(slot) = self.slot(id) else { return Some(Err(CallError::Lost)) };
        if let State::Waiting { waker, .. } = &mut slot.state {
            waker.clone_from(new_waker);
            return None;
        }
        match self.end(id) {
            Some(State::Answered(answer)) => Some(answer),
            _ => Some(Err(CallError::Lost)),
        }
    }

    /// Frees the slot of a call that nobody waits for any more; says whether its answer was still to come.
    pub(super) fn give_up(&mut self, id: CorrelationId) -> bool {
        matches!(self.end(id), Some(State::Waiting { .. }))
    }

    /// A time before which no deadline passes.
    pub(super) fn earliest(&self) -> Option<BootInstant> {
        self.earliest
    }

    /// Ends every call whose deadline has passed.
    pub(super) fn expire(&mut self, now: BootInstant, woken: &mut Vec<Waker>) {
        if self.earliest.is_none_or(|e| e > now) {
            return;
        }
        self.earliest = None;
        for slot in &mut self.slots {
            let State::Waiting { deadline, .. } = &slot.state else { continue };
            if *deadline <= now {
                let passed = State::Answered(Err(CallError::DeadlinePassed { sent: true }));
                woken.extend(mem::replace(&mut slot.state, passed).into_waker());
            } else {
                let deadline = *deadline;
                self.earliest = Some(self.earliest.map_or(deadline, |e: BootInstant| e.min(deadline)));
            }
        }
    }

    /// Ends every waiting call, its connection having ended after `written` bytes. A request that was not written to its
    /// last byte cannot have been executed.
    pub(super) fn lose(&mut self, written: u64, reason: &NotSent, woken: &mut Vec<Waker>) {
        for slot in &mut self.slots {
            let State::Waiting { frame_end, .. } = &slot.state else { continue };
            let error = if *frame_end <= written { CallError::Lost } else { CallError::NotSent(reason.clone()) };
            woken.extend(mem::replace(&mut slot.state, State::Answered(Err(error))).into_waker());
        }
        self.earliest = None;
    }

    fn slot(&mut self, id: CorrelationId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut((id.0 & u64::from(u32::MAX)) as usize)?;
        (u64::from(slot.generation) == id.0 >> 32).then_some(slot)
    }

    fn end(&mut self, id: CorrelationId) -> Option<State> {
        let slot = self.slot(id)?;
        if matches!(slot.state, State::Vacant) {
            return None;
        }
        slot.generation = slot.generation.wrapping_add(1);
        let state = mem::replace(&mut slot.state, State::Vacant);
        self.vacant.push((id.0 & u64::from(u32::MAX)) as u32);
        if self.vacant.len() == self.slots.len() {
            self.earliest = None;
        }
        Some(state)
    }
}

impl State {
    fn into_waker(self) -> Option<Waker> {
        match self {
            Self::Waiting { waker, .. } => Some(waker),
            Self::Vacant | Self::Answered(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: BootInstant = BootInstant(u64::MAX);

    fn begin(calls: &mut Calls, deadline: u64) -> CorrelationId {
        calls.begin(BootInstant(deadline), Waker::noop().clone())
    }

    #[test]
    fn a_late_answer_finds_nobody_in_a_reused_slot() {
        let mut calls = Calls::new(1);
        let old = begin(&mut calls, NEVER.0);
        calls.give_up(old);
        let new = begin(&mut calls, NEVER.0);
        assert_ne!(old, new);
        assert!(calls.answer(old, Ok(Bytes::from_static(b"old"))).is_none());
        assert!(calls.poll(new, Waker::noop()).is_none(), "still waiting");
        assert!(calls.answer(new, Ok(Bytes::from_static(b"new"))).is_some());
        assert!(calls.answer(new, Ok(Bytes::from_static(b"twice"))).is_none());
        assert_eq!(calls.poll(new, Waker::noop()), Some(Ok(Bytes::from_static(b"new"))));
        assert_eq!(calls.len(), 0);
        calls.give_up(new);
        assert_eq!(calls.len(), 0, "giving up twice frees nothing twice");
    }

    #[test]
    fn answers_to_numbers_never_given_find_nobody() {
        let mut calls = Calls::new(4);
        let id = begin(&mut calls, NEVER.0);
        for hostile in [id.0 + 1, id.0 | 1 << 40, u64::MAX] {
            assert!(calls.answer(CorrelationId(hostile), Err(CallError::Abandoned)).is_none());
        }
    }

    #[test]
    fn only_calls_past_their_deadline_expire() {
        let (mut calls, mut woken) = (Calls::new(4), Vec::new());
        let (early, late) = (begin(&mut calls, 10), begin(&mut calls, 20));
        calls.expire(BootInstant(9), &mut woken);
        assert_eq!(woken.len(), 0);
        calls.expire(BootInstant(10), &mut woken);
        assert_eq!((woken.len(), calls.earliest()), (1, Some(BootInstant(20))));
        assert_eq!(calls.poll(early, Waker::noop()), Some(Err(CallError::DeadlinePassed { sent: true })));
        assert_eq!(calls.poll(late, Waker::noop()), None);
    }

    #[test]
    fn only_requests_written_whole_are_lost() {
        let (mut calls, mut woken) = (Calls::new(4), Vec::new());
        let (written, cut) = (begin(&mut calls, 10), begin(&mut calls, 20));
        calls.set_frame_end(written, 100);
        calls.set_frame_end(cut, 200);
        calls.lose(199, &NotSent::Disconnected, &mut woken);
        assert_eq!(woken.len(), 2);
        assert_eq!(calls.poll(written, Waker::noop()), Some(Err(CallError::Lost)));
        assert_eq!(calls.poll(cut, Waker::noop()), Some(Err(CallError::NotSent(NotSent::Disconnected))));
    }
}
