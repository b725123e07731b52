//! Tasks of children: each is one child's, so its id says which: `2.ID`.

use mcp::members::{Members, raw_of};

use crate::plugin::Answer;

/// A task's id as the child has it, and which child that is.
pub(super) fn place(public: &str) -> Option<(usize, &str)> {
    let (child, id) = public.split_once('.')?;
    Some((child.parse().ok()?, id))
}

/// A result with the child's number in the id of the task that it made; any other as it is.
pub(super) fn placed(answer: Answer, child: usize) -> Answer {
    let Answer::Result(result) = answer else {
        return answer;
    };
    let marked = || {
        // Most results need not be read to see that they are none.
        if !result.get().contains("\"taskId\"") {
            return None;
        }
        let mut members = Members::parse(&result).ok()?;
        if members.get_str("resultType").as_deref() != Some("task") {
            return None;
        }
        let id = members.get_str("taskId")?;
        members.set("taskId", raw_of(&format!("{child}.{id}")));
        Some(members.to_raw())
    };
    Answer::Result(marked().unwrap_or(result))
}
