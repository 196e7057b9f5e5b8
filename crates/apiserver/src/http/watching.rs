//! Watches over HTTP: one JSON text per line.

use std::collections::VecDeque;
use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use http_body_util::StreamBody;
use hyper::body::Frame;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Body;
use super::negotiate::Form;
use super::reply::{self, Shape};
use super::table;
use crate::{Object, Watch, WatchEvent};

/// Events that are there already go out together, up to so many bytes; what is longer goes out in pieces of that. So a client
/// that does not read costs no more than this, and what is shared with all others.
const TOGETHER: usize = 16 << 10;

/// The answer that goes on until the watch ends or the client goes.
pub(crate) fn watch(watch: Watch, shape: Shape) -> Response<Body> {
    let writer = Writer { watch, shape, first: true, parts: VecDeque::new() };
    let pieces = stream::unfold(writer, |mut writer| async {
        let piece = writer.piece().await?;
        Some((Ok::<_, Infallible>(Frame::data(piece)), writer))
    });
    reply::with(200, "application/json", Body::new(StreamBody::new(pieces)))
}

struct Writer {
    watch: Watch,
    shape: Shape,
    /// Only the first table has its headings.
    first: bool,
    /// What is still to be sent of the events that were taken from the watch.
    parts: VecDeque<Bytes>,
}

impl Writer {
    async fn piece(&mut self) -> Option<Bytes> {
        if self.parts.is_empty() {
            let event = self.watch.next().await?;
            let mut out = Vec::new();
            self.add(&event, &mut out);
            while self.parts.is_empty()
                && out.len() < TOGETHER
                && let Some(event) = self.watch.ready()
            {
                self.add(&event, &mut out);
            }
            self.parts.push_back(out.into());
        }
        let part = self.parts.front_mut()?;
        let piece = part.split_to(part.len().min(TOGETHER));
        if part.is_empty() {
            self.parts.pop_front();
        }
        Some(piece)
    }

    fn add(&mut self, event: &WatchEvent, out: &mut Vec<u8>) {
        let kind = match event {
            WatchEvent::Added(_) => "ADDED",
            WatchEvent::Modified(_) => "MODIFIED",
            WatchEvent::Deleted(_) => "DELETED",
            WatchEvent::Bookmark { .. } => "BOOKMARK",
            WatchEvent::Failed(_) => "ERROR",
        };
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
                self.object(object, out);
            }
            WatchEvent::Bookmark { revision, initial_end } => self.bookmark(*revision, *initial_end, out),
            WatchEvent::Failed(status) => table::write(&status.to_value(), out),
        }
        out.extend_from_slice(b"}\n");
    }

    fn object(&mut self, object: &Object, out: &mut Vec<u8>) {
        match self.shape.form {
            Form::Objects => {
                let rest = object.begin(out);
                if rest.len() < TOGETHER {
                    out.extend_from_slice(&rest);
                } else {
                    self.parts.push_back(std::mem::take(out).into());
                    self.parts.push_back(rest);
                }
            }
            Form::Metadata(version) => {
                table::write(&table::metadata(object.metadata(), version), out);
            }
            Form::Table(version) => {
                self.head(object.revision, version, out);
                table::row(object, self.shape.include, version, Timestamp::now(), out);
                out.extend_from_slice(b"]}");
            }
        }
    }

    fn head(&mut self, revision: u64, version: &str, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.first) {
            out.extend_from_slice(&reply::table_head(self.watch.kind(), version, revision, "", None));
        } else {
            let head = format!(
                "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":{{\"resourceVersion\":\"{revision}\"}},\"columnDefinitions\":null,\"rows\":["
            );
            out.extend_from_slice(head.as_bytes());
        }
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool, out: &mut Vec<u8>) {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let kind = self.watch.kind();
        let value: Value = match self.shape.form {
            Form::Objects => {
                json!({"kind": kind.name, "apiVersion": kind.api_version(), "metadata": metadata})
            }
            Form::Metadata(version) => table::metadata(metadata, version),
            Form::Table(version) => {
                self.head(revision, version, out);
                let cells = (kind.cells)(&json!({"metadata": {"name": ""}}), Timestamp::now());
                let row = json!({"cells": cells, "object": table::metadata(metadata, version)});
                table::write(&row, out);
                out.extend_from_slice(b"]}");
                return;
            }
        };
        table::write(&value, out);
    }
}
