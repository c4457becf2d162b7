//! Tasks that must run as long as the program does.
//!
//! If a task ended unnoticed, the program would look healthy but do only a part of its work. So the
//! program ends too, and systemd restarts it.

use std::any::Any;
use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::future::pending;

use tokio::task::{Id, JoinSet};

/// Named tasks. Dropping this aborts all of them.
#[derive(Debug, Default)]
pub struct Tasks {
    running: JoinSet<String>,
    names: HashMap<Id, &'static str>,
}

/// The unexpected end of a task.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub task: &'static str,
    /// The cause of its end.
    pub cause: String,
}

impl Display for Ended {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "the task {} has ended: {}", self.task, self.cause)
    }
}

impl Tasks {
    /// Starts a task. Its return value is the cause of its end.
    pub fn spawn<C: Display>(&mut self, name: &'static str, task: impl Future<Output = C> + Send + 'static) {
        let started = self.running.spawn(async { task.await.to_string() });
        self.names.insert(started.id(), name);
    }

    /// Waits until one of the tasks returns or panics.
    pub async fn ended(&mut self) -> Ended {
        let (id, cause) = match self.running.join_next_with_id().await {
            Some(Ok(returned)) => returned,
            Some(Err(error)) => (error.id(), error.try_into_panic().map_or_else(|error| error.to_string(), panicked)),
            None => pending().await,
        };
        Ended { task: self.names.remove(&id).unwrap_or("without a name"), cause }
    }
}

fn panicked(panic: Box<dyn Any + Send>) -> String {
    let literal = panic.downcast_ref::<&str>().copied();
    let words = literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    words.map_or_else(|| "it panicked".to_owned(), |words| format!("it panicked: {words}"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Runs three tasks, one of which ends.
    async fn ended<C: Display>(one: impl Future<Output = C> + Send + 'static) -> Ended {
        let mut tasks = Tasks::default();
        tasks.spawn("first", pending::<Infallible>());
        tasks.spawn("second", one);
        tasks.spawn("third", pending::<Infallible>());
        tasks.ended().await
    }

    #[tokio::test]
    async fn a_task_that_returns_is_named_with_its_cause() {
        let seen = ended(async { "there is no more work" }).await;
        assert_eq!(seen, Ended { task: "second", cause: "there is no more work".to_owned() });
        assert_eq!(seen.to_string(), "the task second has ended: there is no more work");
    }

    fn panic_with_a_literal() -> Infallible {
        panic!("a literal")
    }

    fn panic_with(words: &str) -> Infallible {
        panic!("{words}")
    }

    #[tokio::test]
    async fn a_task_that_panics_is_named_with_its_words() {
        let literal = ended(async { panic_with_a_literal() }).await;
        assert_eq!(literal, Ended { task: "second", cause: "it panicked: a literal".to_owned() });
        let made = ended(async { panic_with("made up") }).await;
        assert_eq!(made, Ended { task: "second", cause: "it panicked: made up".to_owned() });
    }

    #[tokio::test]
    async fn nothing_is_told_while_all_run_or_there_are_none() {
        let mut tasks = Tasks::default();
        for name in ["none", "one"] {
            let mut context = Context::from_waker(Waker::noop());
            assert_eq!(std::pin::pin!(tasks.ended()).poll(&mut context), Poll::Pending, "{name}");
            tasks.spawn("one", pending::<Infallible>());
        }
    }
}
