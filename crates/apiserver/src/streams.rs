//! What is more than an answer: logs as they are written, commands, terminals, and ports of pods.
//!
//! The server looks whether what is asked for can be, and who asks. Then the node prepares it, and the client's connection is joined
//! with the node's, byte for byte: neither SPDY nor WebSocket is understood here.

mod join;

use http::{Method, Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::http::{Api, Body, Query};
use crate::{Attributes, FieldError, LogOptions, LogStream, Status, Stream, Streams, User};

/// The subresources of pods that are served here.
pub const SUBRESOURCES: [&str; 4] = ["attach", "exec", "log", "portforward"];

/// Answers a request for one of [`SUBRESOURCES`], whose user may (`get`, or `create` for POST).
///
/// # Errors
/// In the words of kube-apiserver and kubelet.
pub async fn serve(
    api: &Api,
    user: &User,
    request: Request<Incoming>,
    namespace: &str,
    name: &str,
    subresource: &str,
) -> Result<Response<Body>, Status> {
    let kind = api.cluster.kind("", "v1", "pods").ok_or_else(Status::no_such_path)?;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    if subresource == "log" {
        let options = log_options(&query, name, Timestamp::now())?;
        let pod = api.cluster.get(kind, namespace, name)?.value();
        return log(api, &pod, options).await;
    }
    if !join::is_upgrade(&request) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    // A WebSocket begins with GET, but what it does is no reading (AuthorizePodWebsocketUpgradeCreatePermission).
    if request.method() == Method::GET {
        let what = Attributes {
            verb: "create",
            version: "v1",
            resource: "pods",
            subresource,
            namespace,
            name,
            ..Attributes::default()
        };
        api.access.authorize(user, &what)?;
    }
    let pod = api.cluster.get(kind, namespace, name)?.value();
    let stream = stream(&query, &pod, name, subresource)?;
    if text(&pod, "/spec/nodeName").is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    match api.node.stream(&pod, &stream).await {
        Ok(url) => join::join(request, &url).await,
        // kubectl says itself what it was about.
        Err(status) if status.code == 500 => Ok(plain(500, status.message)),
        Err(status) => Err(status),
    }
}

/// What is to be done, with the container found out.
fn stream(query: &Query, pod: &Value, name: &str, subresource: &str) -> Result<Stream, Status> {
    if subresource == "portforward" {
        let ports = query.all("ports").flat_map(|ports| ports.split(',')).map(|port| {
            port.parse().map_err(|_| Status::bad_request(format!("unable to parse {port:?} as a port")))
        });
        return Ok(Stream::PortForward { ports: ports.collect::<Result<_, _>>()? });
    }
    let container = container(query.text("container"), pod, name)?;
    let tty = query.yes("tty");
    let streams = Streams {
        stdin: query.yes("stdin"),
        stdout: query.yes("stdout"),
        // A terminal has one output.
        stderr: query.yes("stderr") && !tty,
        tty,
    };
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if subresource == "attach" {
        // Whether it has a terminal is the container's affair.
        let tty = spec_of(pod, &container).is_some_and(|spec| spec["tty"] == true);
        let streams = Streams { tty, stderr: query.yes("stderr") && !tty, ..streams };
        return Ok(Stream::Attach { container, streams });
    }
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        return Err(Status::bad_request("you must specify at least one command for the container"));
    }
    Ok(Stream::Exec { container, command, streams })
}

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    LISTS.iter().filter_map(|list| pod["spec"][*list].as_array()).flatten()
}

fn spec_of<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    containers(pod).find(|spec| spec["name"] == container)
}

/// The one that is named, or the only one.
fn container(named: &str, pod: &Value, name: &str) -> Result<String, Status> {
    if !named.is_empty() {
        return match spec_of(pod, named) {
            Some(_) => Ok(named.to_owned()),
            None => Err(Status::bad_request(format!("container {named} is not valid for pod {name}"))),
        };
    }
    match pod["spec"]["containers"].as_array().map(Vec::as_slice) {
        Some([one]) => Ok(one["name"].as_str().unwrap_or_default().to_owned()),
        None | Some([]) => {
            Err(Status::bad_request(format!("a container name must be specified for pod {name}")))
        }
        Some(_) => {
            let names: Vec<&str> = containers(pod).filter_map(|spec| spec["name"].as_str()).collect();
            let names = names.join(" ");
            Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{names}]"
            )))
        }
    }
}

async fn log(api: &Api, pod: &Value, mut options: LogOptions) -> Result<Response<Body>, Status> {
    options.container = container(&options.container, pod, &text(pod, "/metadata/name"))?;
    if text(pod, "/spec/nodeName").is_empty() {
        let mut nothing = Response::new(Body::empty());
        *nothing.status_mut() = http::StatusCode::NO_CONTENT;
        return Ok(nothing);
    }
    let pieces = api.node.log(pod, &options).await?;
    let frames = ReceiverStream::new(pieces.0).map(|piece| piece.map(Frame::data));
    let mut answer = Response::new(Body::new(StreamBody::new(frames)));
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    Ok(answer)
}

/// Which part of the log (`PodLogOptions`, `ValidatePodLogOptions`).
fn log_options(query: &Query, name: &str, now: Timestamp) -> Result<LogOptions, Status> {
    let number = |field: &str| -> Result<Option<i64>, Status> {
        let text = query.text(field);
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) if text.is_empty() => Ok(None),
            Err(_) => Err(Status::bad_request(format!(
                "strconv.ParseInt: parsing {text:?}: invalid syntax (parameter {field})"
            ))),
        }
    };
    let (tail, limit, seconds) = (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
    let time = match query.text("sinceTime") {
        "" => None,
        text => Some(text.parse::<Timestamp>().map_err(|_| {
            Status::bad_request(format!("sinceTime {text:?} is no time as 2026-01-02T15:04:05Z"))
        })?),
    };
    let stream = match query.text("stream") {
        "" | "All" => Some(LogStream::All),
        "Stdout" => Some(LogStream::Stdout),
        "Stderr" => Some(LogStream::Stderr),
        _ => None,
    };
    let mut errors = Vec::new();
    if let Some(tail) = tail.filter(|tail| *tail < 0) {
        errors.push(FieldError::invalid("tailLines", tail, "must be greater than or equal to 0"));
    }
    for (path, given) in [("limitBytes", limit), ("sinceSeconds", seconds)] {
        let given = given.filter(|given| *given < 1 && !(path == "sinceSeconds" && time.is_some()));
        errors.extend(given.map(|given| FieldError::invalid(path, given, "must be greater than 0")));
    }
    if seconds.is_some() && time.is_some() {
        errors
            .push(FieldError::forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    match stream {
        None => {
            let supported = ["All", "Stderr", "Stdout"];
            errors.push(FieldError::not_supported("stream", query.text("stream"), &supported));
        }
        Some(LogStream::All) => {}
        Some(_) if tail.is_some() => errors.push(FieldError::forbidden(
            "",
            "`tailLines` and specific `stream` are mutually exclusive for now",
        )),
        Some(_) => {}
    }
    if !errors.is_empty() {
        return Err(Status::invalid_named("", "PodLogOptions", name, &errors));
    }
    let ago = seconds.and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
    Ok(LogOptions {
        container: query.text("container").to_owned(),
        follow: query.yes("follow"),
        limit_bytes: limit.and_then(|limit| limit.try_into().ok()),
        previous: query.yes("previous"),
        since: time.or(ago),
        stream: stream.unwrap_or_default(),
        tail_lines: tail.and_then(|tail| tail.try_into().ok()),
        timestamps: query.yes("timestamps"),
    })
}

fn plain(code: u16, text: String) -> Response<Body> {
    let mut answer = Response::new(Body::full(format!("{text}\n")));
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    answer
}

fn text(value: &Value, path: &str) -> String {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
