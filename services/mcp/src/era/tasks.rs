//! Tasks: those of 2025-11-25 (experimental, part of its core) against the extension of 2026-07-28.
//!
//! A server of 2025-11-25 may demand that a tool is called as a task; a modern client that has the
//! extension sees its tasks in the extension's form. The other way there is no bridge: an older client
//! chooses itself whether a call becomes a task, a modern server chooses for its client, so an older
//! client is told of no tasks and every call answers it directly.

use serde_json::value::RawValue;

use crate::failure::{Cause, Failure};
use crate::members::{Members, is_object, raw_of};

/// Names that differ: of 2025-11-25, of the extension.
const RENAMED: [(&str, &str); 2] = [("ttl", "ttlMs"), ("pollInterval", "pollIntervalMs")];

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Under way.
    Working,
    /// Waits for its client.
    InputRequired,
    /// Done.
    Completed,
    /// Ended with an error.
    Failed,
    /// Ended by its client.
    Cancelled,
}

impl Status {
    /// Whether the task will not change any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Status::Working | Status::InputRequired)
    }
}

/// A task of an older server.
#[derive(Debug)]
pub struct Task<'a> {
    members: Members<'a>,
    /// How far it is.
    pub status: Status,
}

impl<'a> Task<'a> {
    /// Reads a task: the result of `tasks/get` or `tasks/cancel`, the `task` of a `CreateTaskResult`, or the
    /// parameters of `notifications/tasks/status`.
    ///
    /// # Errors
    /// [`Cause::UpstreamInvalid`] when it has no id or a status that there is not.
    pub fn read(raw: &'a RawValue) -> Result<Task<'a>, Failure> {
        let invalid = || Failure::new(Cause::UpstreamInvalid);
        let members = Members::parse(raw).map_err(|_| invalid())?;
        members.get_str("taskId").ok_or_else(invalid)?;
        let status = match members.get_str("status").as_deref() {
            Some("working") => Status::Working,
            Some("input_required") => Status::InputRequired,
            Some("completed") => Status::Completed,
            Some("failed") => Status::Failed,
            Some("cancelled") => Status::Cancelled,
            _ => return Err(invalid()),
        };
        Ok(Task { members, status })
    }

    /// The members in the extension's form.
    fn modern(&self) -> Members<'a> {
        let mut modern = Members::default();
        for (name, value) in self.members.iter() {
            let name = RENAMED
                .iter()
                .find(|(old, _)| *old == name)
                .map_or(name, |(_, new)| new);
            modern.push(name.to_owned(), value.to_owned());
        }
        // The extension wants it; 2025-11-25 says `null` or nothing for a task without end.
        if modern.get("ttlMs").is_none() {
            modern.push("ttlMs", raw_of(&()));
        }
        modern
    }

    /// The result of the extension's `tasks/get`. A task that is done carries its result, a failed one its
    /// error: `outcome` is what `tasks/result` gave.
    ///
    /// # Errors
    /// [`Cause::UpstreamInvalid`] when the outcome does not fit the status.
    pub fn get_result(
        &self,
        outcome: Option<Result<&RawValue, &RawValue>>,
    ) -> Result<Box<RawValue>, Failure> {
        let mut modern = self.modern();
        match (self.status, outcome) {
            (Status::Completed, Some(Ok(result))) => modern.push("result", result.to_owned()),
            // A tool that failed has a result that says so.
            (Status::Failed, Some(Ok(result))) if is_object(result) => {
                modern.set("status", raw_of("completed"));
                modern.push("result", result.to_owned());
            }
            (Status::Failed, Some(Err(error))) => modern.push("error", error.to_owned()),
            (Status::Completed | Status::Failed, _) => {
                return Err(Failure::new(Cause::UpstreamInvalid));
            }
            _ => {}
        }
        modern.push("resultType", raw_of("complete"));
        Ok(modern.to_raw())
    }

    /// The parameters of `notifications/tasks`; `None` for a task that is over, whose outcome the
    /// notification of 2025-11-25 does not carry: the client asks for it with `tasks/get`.
    #[must_use]
    pub fn notification_params(&self) -> Option<Box<RawValue>> {
        let bare = matches!(self.status, Status::Working | Status::Cancelled);
        bare.then(|| self.modern().to_raw())
    }
}

/// The extension's answer to a call that became a task, from a `CreateTaskResult` of 2025-11-25.
///
/// # Errors
/// [`Cause::UpstreamInvalid`] when it holds no task.
pub fn created(result: &RawValue) -> Result<Box<RawValue>, Failure> {
    let invalid = || Failure::new(Cause::UpstreamInvalid);
    let members = Members::parse(result).map_err(|_| invalid())?;
    let task = members.get("task").ok_or_else(invalid)?;
    let mut modern = Task::read(task)?.modern();
    modern.push("resultType", raw_of("task"));
    Ok(modern.to_raw())
}

/// Whether a tool of 2025-11-25 is called as a task (`execution.taskSupport`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Never; also what a tool that says nothing means.
    Forbidden,
    /// If the client wishes.
    Optional,
    /// Always.
    Required,
}

impl Support {
    /// Reads it from a tool's definition.
    #[must_use]
    pub fn of(tool: &RawValue) -> Support {
        let said = Members::parse(tool).ok().and_then(|tool| {
            let execution = Members::parse(tool.get("execution")?).ok()?;
            execution.get_str("taskSupport")
        });
        match said.as_deref() {
            Some("optional") => Support::Optional,
            Some("required") => Support::Required,
            _ => Support::Forbidden,
        }
    }
}

/// Adds to the parameters of a `tools/call` the wish for a task.
///
/// # Errors
/// [`Cause::InvalidParams`] when they are no object.
pub fn as_task(params: &RawValue) -> Result<Box<RawValue>, Failure> {
    let mut members = Members::parse(params).map_err(|_| Failure::new(Cause::InvalidParams))?;
    members.set("task", Members::default().to_raw());
    Ok(members.to_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    fn task(status: &str) -> Box<RawValue> {
        raw(&format!(
            r#"{{"taskId":"t","status":"{status}","createdAt":"c","lastUpdatedAt":"u","ttl":60000,"pollInterval":5,"vendor":1.0}}"#
        ))
    }

    fn modern(status: &str, more: &str) -> String {
        format!(
            r#"{{"taskId":"t","status":"{status}","createdAt":"c","lastUpdatedAt":"u","ttlMs":60000,"pollIntervalMs":5,"vendor":1.0{more}}}"#
        )
    }

    #[test]
    fn a_call_that_became_a_task_says_so_in_the_extensions_form() {
        let old = raw(&format!(r#"{{"task":{}}}"#, task("working").get()));
        assert_eq!(
            created(&old).unwrap().get(),
            modern("working", r#","resultType":"task""#)
        );
        assert!(created(&raw(r#"{"content":[]}"#)).is_err());
        let endless = raw(r#"{"task":{"taskId":"t","status":"working"}}"#);
        assert!(created(&endless).unwrap().get().contains(r#""ttlMs":null"#));
    }

    #[test]
    fn a_task_carries_its_outcome() {
        let (result, error) = (raw(r#"{"content":[]}"#), raw(r#"{"code":1,"message":"m"}"#));
        for (status, outcome, expected) in [
            (
                "working",
                None,
                Some(modern("working", r#","resultType":"complete""#)),
            ),
            (
                "cancelled",
                None,
                Some(modern("cancelled", r#","resultType":"complete""#)),
            ),
            (
                "completed",
                Some(Ok(&*result)),
                Some(modern(
                    "completed",
                    r#","result":{"content":[]},"resultType":"complete""#,
                )),
            ),
            (
                "failed",
                Some(Err(&*error)),
                Some(modern(
                    "failed",
                    r#","error":{"code":1,"message":"m"},"resultType":"complete""#,
                )),
            ),
            (
                "failed",
                Some(Ok(&*result)),
                Some(modern(
                    "completed",
                    r#","result":{"content":[]},"resultType":"complete""#,
                )),
            ),
            ("completed", None, None),
            ("completed", Some(Err(&*error)), None),
        ] {
            let old = task(status);
            let got = Task::read(&old).unwrap().get_result(outcome).ok();
            assert_eq!(
                got.as_deref().map(RawValue::get),
                expected.as_deref(),
                "{status}"
            );
        }
        assert!(Task::read(&raw(r#"{"taskId":"t","status":"lost"}"#)).is_err());
        assert!(Status::Failed.is_final() && !Status::InputRequired.is_final());
    }

    #[test]
    fn a_task_that_moves_is_told_of() {
        let working = task("working");
        assert_eq!(
            Task::read(&working)
                .unwrap()
                .notification_params()
                .unwrap()
                .get(),
            modern("working", "")
        );
        let completed = task("completed");
        assert!(
            Task::read(&completed)
                .unwrap()
                .notification_params()
                .is_none()
        );
    }

    #[test]
    fn tools_say_whether_they_are_called_as_tasks() {
        for (tool, support) in [
            (
                r#"{"execution":{"taskSupport":"required"}}"#,
                Support::Required,
            ),
            (
                r#"{"execution":{"taskSupport":"optional"}}"#,
                Support::Optional,
            ),
            (r#"{"execution":{}}"#, Support::Forbidden),
            ("{}", Support::Forbidden),
        ] {
            assert_eq!(Support::of(&raw(tool)), support);
        }
        assert_eq!(
            as_task(&raw(r#"{"name":"t"}"#)).unwrap().get(),
            r#"{"name":"t","task":{}}"#
        );
    }
}
