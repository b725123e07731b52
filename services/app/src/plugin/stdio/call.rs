//! A client's call to a child, through every question of the child to its answer.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use mcp::{Cause, Failure, Method};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::OwnedSemaphorePermit;

use super::connection::{Event, Exchange, Question};
use crate::plugin::{Answer, CallContext, Inputs, Parked, State, upstream::forms};

/// A call under way. Dropping it tells the child to give it up.
#[derive(Debug)]
pub(super) struct Working {
    plugin: Arc<str>,
    method: Method,
    call_timeout: Duration,
    exchange: Exchange,
    /// What the child wants to know, by the key under which its client is asked.
    open: BTreeMap<String, Question>,
    asked: usize,
    /// Held for as long as no other call may be under way.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Working {
    pub(super) fn new(
        plugin: Arc<str>,
        method: Method,
        call_timeout: Duration,
        exchange: Exchange,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            plugin,
            method,
            call_timeout,
            exchange,
            open: BTreeMap::new(),
            asked: 0,
            _turn: turn,
        }
    }

    /// Waits until `deadline` for the answer, or for questions that come before it.
    pub(super) async fn go_on(mut self, deadline: Instant) -> Result<Answer, Failure> {
        match self.exchange.next(deadline).await {
            Ok(Event::Answer(Answer::Result(result))) => {
                forms::result_from_server(result, &self.method).map(Answer::Result)
            }
            Ok(Event::Answer(Answer::Error(error))) => {
                forms::error_from_server(error).map(Answer::Error)
            }
            Ok(Event::Answer(Answer::Questions(_))) => Err(Failure::new(Cause::Internal)),
            Ok(Event::Question(question)) => {
                self.keep(question);
                // Questions that were asked together are put together.
                while let Some(question) = self.exchange.waiting_question() {
                    self.keep(question);
                }
                Ok(Answer::Questions(Box::new(self)))
            }
            Err(lost) => Err(lost.failure(&self.plugin, &State::Ready)),
        }
    }

    fn keep(&mut self, question: Question) {
        self.asked += 1;
        self.open.insert(format!("q{}", self.asked), question);
    }

    async fn answer_and_go_on(
        mut self,
        mut inputs: Inputs,
        context: CallContext,
    ) -> Result<Answer, Failure> {
        let deadline = context.deadline.min(Instant::now() + self.call_timeout);
        self.exchange.continue_for(context.client, context.notices);
        let answered: Vec<String> = self
            .open
            .keys()
            .filter(|key| inputs.contains_key(*key))
            .cloned()
            .collect();
        for key in answered {
            if let (Some(question), Some(input)) = (self.open.remove(&key), inputs.remove(&key)) {
                self.exchange
                    .connection()
                    .answer(&question, &input, deadline)
                    .await
                    .map_err(|lost| lost.failure(&self.plugin, &State::Ready))?;
            }
        }
        if self.open.is_empty() {
            self.go_on(deadline).await
        } else {
            Ok(Answer::Questions(Box::new(self)))
        }
    }
}

impl Parked for Working {
    fn questions(&self) -> Inputs {
        let asked = |question: &Question| written(&question.method, question.params.as_deref());
        self.open
            .iter()
            .filter_map(|(key, question)| Some((key.clone(), asked(question)?)))
            .collect()
    }

    fn resume(
        self: Box<Self>,
        inputs: Inputs,
        context: CallContext,
    ) -> BoxFuture<'static, Result<Answer, Failure>> {
        Box::pin(self.answer_and_go_on(inputs, context))
    }
}

/// A question as an entry of `inputRequests`.
pub(super) fn written(method: &str, params: Option<&RawValue>) -> Option<Box<RawValue>> {
    #[derive(Serialize)]
    struct Asked<'a> {
        method: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        params: Option<&'a RawValue>,
    }
    to_raw_value(&Asked { method, params }).ok()
}

impl Drop for Working {
    fn drop(&mut self) {
        for question in self.open.values() {
            self.exchange.refuse(question);
        }
    }
}
