//! Tasks of the fixtures. How far one is follows from what it does, what it was told, and the time: nothing runs.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use mcp::{Cause, Failure, Method};
use serde_json::{Map, Value, json};

/// How long a task can be asked for.
const TTL: Duration = Duration::from_secs(3600);
/// How soon a client should ask again.
const POLL_MS: u64 = 200;
/// Tasks at once.
const TASKS_MAX: usize = 1024;

/// What a task does.
#[derive(Debug, Clone)]
pub(super) enum Work {
    /// It is done after a while.
    Lasting {
        /// How long it takes.
        time: Duration,
        /// The result, or the error object.
        outcome: Result<Value, Value>,
    },
    /// It is done when its client has answered.
    Asking {
        /// What is not answered yet.
        open: Map<String, Value>,
        /// What was.
        answers: Vec<Value>,
    },
}

#[derive(Debug)]
struct Task {
    work: Work,
    created: SystemTime,
    updated: SystemTime,
    is_cancelled: bool,
}

/// How far a task is, with what goes with it.
#[derive(Debug)]
enum Stage {
    Working,
    InputRequired(Map<String, Value>),
    Completed(Value),
    Failed(Value),
    Cancelled,
}

impl Task {
    fn stage(&self, now: SystemTime) -> (Stage, SystemTime) {
        let stage = match &self.work {
            _ if self.is_cancelled => Stage::Cancelled,
            Work::Lasting { time, outcome } => {
                let end = self.created + *time;
                if now < end {
                    return (Stage::Working, self.updated);
                }
                let ended = match outcome.clone() {
                    Ok(result) => Stage::Completed(result),
                    Err(error) => Stage::Failed(error),
                };
                return (ended, end);
            }
            Work::Asking { open, .. } if !open.is_empty() => Stage::InputRequired(open.clone()),
            Work::Asking { answers, .. } => {
                let text = format!("Answered: {}", Value::Array(answers.clone()));
                Stage::Completed(json!({"content": [{"type": "text", "text": text}]}))
            }
        };
        (stage, self.updated)
    }

    fn is_over(&self, now: SystemTime) -> bool {
        !matches!(self.stage(now).0, Stage::Working | Stage::InputRequired(_))
    }

    /// Takes answers to what is asked; others mean nothing.
    fn answer(&mut self, inputs: &Value, now: SystemTime) {
        let Work::Asking { open, answers } = &mut self.work else {
            return;
        };
        for (key, input) in inputs.as_object().into_iter().flatten() {
            if input["action"].is_string() && open.remove(key).is_some() {
                answers.push(input.clone());
                self.updated = now;
            }
        }
    }

    /// Writes the task; its outcome too, where it is asked for.
    fn shown(&self, id: &str, with_outcome: bool, now: SystemTime) -> Value {
        let (stage, updated) = self.stage(now);
        let (status, outcome) = match stage {
            Stage::Working => ("working", None),
            Stage::InputRequired(open) => {
                ("input_required", Some(("inputRequests", Value::from(open))))
            }
            Stage::Completed(result) => ("completed", Some(("result", result))),
            Stage::Failed(error) => ("failed", Some(("error", error))),
            Stage::Cancelled => ("cancelled", None),
        };
        let mut shown = json!({
            "resultType": if with_outcome { "complete" } else { "task" },
            "taskId": id,
            "status": status,
            "createdAt": written(self.created),
            "lastUpdatedAt": written(updated),
            "ttlMs": u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX),
            "pollIntervalMs": POLL_MS,
        });
        if let Some((member, outcome)) = outcome.filter(|_| with_outcome) {
            shown[member] = outcome;
        }
        shown
    }
}

/// All tasks of the fixtures.
#[derive(Debug, Default)]
pub(super) struct Desk(Mutex<BTreeMap<String, Task>>);

impl Desk {
    /// Begins a task and returns the `CreateTaskResult`.
    ///
    /// # Errors
    /// [`Cause::Overloaded`] past [`TASKS_MAX`] tasks.
    pub(super) fn begin(&self, work: Work, now: SystemTime) -> Result<Value, Failure> {
        let mut tasks = self.tasks();
        tasks.retain(|_, task| now < task.created + TTL);
        if tasks.len() >= TASKS_MAX {
            return Err(Failure::new(Cause::Overloaded));
        }
        let id = format!("{:032x}", rand::random::<u128>());
        let task = Task {
            work,
            created: now,
            updated: now,
            is_cancelled: false,
        };
        let shown = task.shown(&id, false, now);
        tasks.insert(id, task);
        Ok(shown)
    }

    /// Answers a method of the tasks extension.
    ///
    /// # Errors
    /// [`Cause::InvalidParams`] for a task that is not there.
    pub(super) fn ask(
        &self,
        method: &Method,
        id: &str,
        inputs: &Value,
        now: SystemTime,
    ) -> Result<Value, Failure> {
        let mut tasks = self.tasks();
        let task = tasks
            .get_mut(id)
            .filter(|task| now < task.created + TTL)
            .ok_or_else(|| Failure::say(Cause::InvalidParams, "no such task"))?;
        match method {
            Method::TasksGet => return Ok(task.shown(id, true, now)),
            Method::TasksUpdate => task.answer(inputs, now),
            _ if !task.is_over(now) => {
                task.is_cancelled = true;
                task.updated = now;
            }
            _ => {}
        }
        Ok(json!({"resultType": "complete"}))
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<String, Task>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn written(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_goes_on_with_time_and_answers() {
        let desk = Desk::default();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let begin = |work| {
            desk.begin(work, at(0)).unwrap()["taskId"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let lasting = |outcome| Work::Lasting {
            time: Duration::from_secs(5),
            outcome,
        };
        let asking = || Work::Asking {
            open: Map::from_iter([("a".into(), json!({})), ("b".into(), json!({}))]),
            answers: Vec::new(),
        };
        let get = |id: &str, seconds| {
            let got = desk.ask(&Method::TasksGet, id, &Value::Null, at(seconds));
            got.map(|got| got["status"].as_str().unwrap().to_owned())
        };
        let (done, failed) = (begin(lasting(Ok(json!(1)))), begin(lasting(Err(json!(2)))));
        for (id, end) in [(&done, "completed"), (&failed, "failed")] {
            assert_eq!(get(id, 4).unwrap(), "working");
            assert_eq!(get(id, 5).unwrap(), end);
            assert!(get(id, 3600).is_err(), "its time is over");
        }
        let asked = begin(asking());
        for (inputs, status) in [
            (json!({"x": {"action": "accept"}, "a": 7}), "input_required"),
            (json!({"a": {"action": "accept"}}), "input_required"),
            (json!({"b": {"action": "decline"}}), "completed"),
        ] {
            desk.ask(&Method::TasksUpdate, &asked, &inputs, at(1))
                .unwrap();
            assert_eq!(get(&asked, 1).unwrap(), status);
        }
        let left = begin(asking());
        for _ in 0..2 {
            desk.ask(&Method::TasksCancel, &left, &Value::Null, at(2))
                .unwrap();
            assert_eq!(get(&left, 2).unwrap(), "cancelled");
        }
        desk.ask(&Method::TasksCancel, &asked, &Value::Null, at(2))
            .unwrap();
        assert_eq!(get(&asked, 2).unwrap(), "completed", "it is over");
    }
}
