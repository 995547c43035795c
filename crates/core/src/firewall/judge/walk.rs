//! The way of pieces through chains.

use super::program::{Meets, Program};
use super::{Decider, Ends, Verdict};
use crate::firewall::{Action, ChainId, Dimension, LabelId, RangeSet, Space};

/// How deep chains may lead into each other; the Linux kernel's own limit is 16.
const DEEPEST: usize = 32;

/// Where a piece is in a chain.
#[derive(Clone, Debug)]
struct Frame {
    chain: ChainId,
    next: usize,
    /// The rule because of which it is not known whether packets are here or behind the rule that led here.
    unsure: Option<LabelId>,
}

/// Packets that had the same fate so far.
#[derive(Clone, Debug)]
struct Piece {
    space: Space,
    /// Which chain of the path it is in, counted.
    stage: usize,
    frames: Vec<Frame>,
    /// The first rule that may have let it pass this stage, and the first that may have dropped it.
    allowing: Option<LabelId>,
    denying: Option<LabelId>,
    /// The rule because of which it is not known whether it passed the stages before.
    open: Option<LabelId>,
}

/// What becomes of a piece that a rule has met.
enum Next {
    On(Piece),
    Both(Piece, Piece),
    Ended,
}

/// Follows all pieces of a space.
pub(super) struct Walk<'a> {
    program: &'a Program,
    path: &'a [ChainId],
    steps: &'a mut u64,
    ends: &'a mut Ends,
}

impl<'a> Walk<'a> {
    pub(super) const fn new(program: &'a Program, path: &'a [ChainId], steps: &'a mut u64, ends: &'a mut Ends) -> Self {
        Self { program, path, steps, ends }
    }

    pub(super) fn follow(mut self, space: Space) {
        let piece = Piece { space, stage: 0, frames: Vec::new(), allowing: None, denying: None, open: None };
        let mut waiting: Vec<Piece> = self.enter(piece).into_iter().collect();
        while let Some(mut piece) = waiting.pop() {
            loop {
                if *self.steps == 0 {
                    self.ends.add(Verdict::CannotTell, Decider::TooMany, piece.space);
                    break;
                }
                match self.step(piece) {
                    Next::On(same) => piece = same,
                    Next::Both(one, other) => {
                        waiting.push(other);
                        piece = one;
                    }
                    Next::Ended => break,
                }
            }
        }
    }

    /// Puts a piece at the beginning of its stage; nothing is left of it where there is no further one.
    fn enter(&mut self, mut piece: Piece) -> Option<Piece> {
        let Some(chain) = self.path.get(piece.stage) else {
            match piece.open {
                Some(label) => self.ends.add(Verdict::CannotTell, Decider::Rule(label), piece.space),
                None => self.ends.pass(piece.space),
            }
            return None;
        };
        if !self.program.has(*chain) {
            self.ends.add(Verdict::CannotTell, Decider::Endless, piece.space);
            return None;
        }
        piece.frames = vec![Frame { chain: *chain, next: 0, unsure: None }];
        (piece.allowing, piece.denying) = (None, None);
        Some(piece)
    }

    fn step(&mut self, mut piece: Piece) -> Next {
        let Some(frame) = piece.frames.last() else { return self.policy(piece) };
        let Some(step) = self.program.step(frame.chain, frame.next) else {
            piece.frames.pop();
            return Next::On(piece);
        };
        match step.meets(&piece.space, self.steps) {
            Meets::Not => Next::On(piece.skip()),
            Meets::Surely => self.surely(piece, step.action, step.label),
            Meets::Perhaps => self.perhaps(piece, step.action, step.label),
            Meets::Part(dimension, set) => {
                let (inside, outside) = piece.divide(dimension, &set);
                Next::Both(inside, outside.skip())
            }
            Meets::Certain(dimension, set) => {
                let (inside, outside) = piece.divide(dimension, &set);
                Next::Both(inside, outside)
            }
        }
    }

    fn surely(&mut self, mut piece: Piece, action: Action, label: LabelId) -> Next {
        match action {
            Action::Allow | Action::Deny => match piece.frames.iter().rposition(|frame| frame.unsure.is_some()) {
                // Packets are here, and end, or they are behind the rule that led here.
                Some(at) => {
                    let because = piece.frames.get(at).and_then(|frame| frame.unsure).unwrap_or(label);
                    piece.doubt(action, because);
                    piece.frames.truncate(at);
                    Next::On(piece)
                }
                None => self.decide(piece, action, label),
            },
            Action::Jump(chain) => {
                let piece = piece.skip();
                self.lead(piece, chain, None)
            }
            Action::Goto(chain) => {
                let unsure = piece.frames.pop().and_then(|frame| frame.unsure);
                self.lead(piece, chain, unsure)
            }
            Action::Return => {
                piece.frames.pop();
                Next::On(piece)
            }
        }
    }

    fn perhaps(&mut self, mut piece: Piece, action: Action, label: LabelId) -> Next {
        match action {
            Action::Allow | Action::Deny => piece.doubt(action, label),
            Action::Jump(chain) => {
                let piece = piece.skip();
                return self.lead(piece, chain, Some(label));
            }
            // Where it leads, and from there on, is not followed: anything may become of the packets.
            Action::Goto(_) => {
                piece.doubt(Action::Allow, label);
                piece.doubt(Action::Deny, label);
            }
            Action::Return => {
                if let Some(frame) = piece.frames.last_mut() {
                    frame.unsure.get_or_insert(label);
                }
            }
        }
        Next::On(piece.skip())
    }

    fn lead(&mut self, mut piece: Piece, chain: ChainId, unsure: Option<LabelId>) -> Next {
        if piece.frames.len() >= DEEPEST || !self.program.has(chain) {
            self.ends.add(Verdict::CannotTell, Decider::Endless, piece.space);
            return Next::Ended;
        }
        piece.frames.push(Frame { chain, next: 0, unsure });
        Next::On(piece)
    }

    /// What becomes of a piece at the end of its stage.
    fn policy(&mut self, piece: Piece) -> Next {
        let policy = self.path.get(piece.stage).and_then(|chain| self.program.policy(*chain));
        match policy {
            Some((action @ (Action::Allow | Action::Deny), label)) => self.decide(piece, action, label),
            _ => {
                self.ends.add(Verdict::CannotTell, Decider::Endless, piece.space);
                Next::Ended
            }
        }
    }

    fn decide(&mut self, mut piece: Piece, action: Action, label: LabelId) -> Next {
        let against = if action == Action::Deny { piece.allowing } else { piece.denying };
        if action == Action::Deny && against.is_none() {
            self.ends.add(Verdict::Blocked, Decider::Rule(label), piece.space);
            return Next::Ended;
        }
        // Not known so far is not yet not known: a later stage may drop it for certain.
        piece.open = piece.open.or(against);
        piece.stage += 1;
        self.enter(piece).map_or(Next::Ended, Next::On)
    }
}

impl Piece {
    fn skip(mut self) -> Self {
        if let Some(frame) = self.frames.last_mut() {
            frame.next += 1;
        }
        self
    }

    fn doubt(&mut self, action: Action, label: LabelId) {
        let place = if action == Action::Allow { &mut self.allowing } else { &mut self.denying };
        place.get_or_insert(label);
    }

    fn divide(self, dimension: Dimension, set: &RangeSet) -> (Self, Self) {
        let all = self.space.of(dimension);
        let inside = self.space.clone().with(dimension, all.and(set));
        let outside = self.space.clone().with(dimension, all.without(set));
        let rest = Self { space: outside, ..self.clone() };
        (Self { space: inside, ..self }, rest)
    }
}
