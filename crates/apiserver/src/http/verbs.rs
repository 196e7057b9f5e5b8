//! Requests for objects.

use std::time::Duration;

use http::header::{self, HeaderMap};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::negotiate;
use super::path::Place;
use super::query::{self, Query};
use super::reply::{self, Shape};
use super::{Api, Body, read, scale, table, watching};
use crate::{
    DeleteOptions, Deletion, Details, Kind, Status, Strictness, Subresource, User, Verb, Warnings, Write,
    metrics, reviews, streams, tokens,
};

/// Requests that are answered at once; watches and streams are not counted (`--max-requests-inflight` and the mutating ones).
static IN_FLIGHT: Semaphore = Semaphore::const_new(600);

/// How long a watch goes on whose client did not say: this, and by chance up to as much more (`--min-request-timeout`).
const LONGEST: Duration = Duration::from_secs(1800);

/// What the request is, in the words of authorisation.
pub(crate) fn verb(method: &Method, place: &Place, query: &Query) -> &'static str {
    let watch = place.watch || query.yes("watch");
    match (method, place.name.is_empty()) {
        (&Method::GET | &Method::HEAD, true) if watch => "watch",
        (&Method::GET | &Method::HEAD, true) => "list",
        (&Method::GET | &Method::HEAD, false) if place.watch => "watch",
        (&Method::GET | &Method::HEAD, false) => "get",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, true) => "deletecollection",
        (&Method::DELETE, false) => "delete",
        _ => "",
    }
}

/// One request for objects, of somebody who may.
pub(crate) struct Call<'a> {
    pub(crate) api: &'a Api,
    pub(crate) user: User,
    pub(crate) place: Place,
    pub(crate) query: Query,
    pub(crate) verb: &'static str,
}

impl Call<'_> {
    pub(crate) async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        if streams::SUBRESOURCES.contains(&self.place.subresource.as_str()) && self.place.resource == "pods" {
            let Place { namespace, name, subresource, .. } = &self.place;
            return streams::serve(self.api, &self.user, request, namespace, name, subresource).await;
        }
        let _permit =
            match self.verb {
                "watch" => None,
                _ => Some(IN_FLIGHT.try_acquire().map_err(|_| {
                    Status::too_many_requests("Too many requests, please try again later.", 1)
                })?),
            };
        let (head, body) = request.into_parts();
        let Place { group, version, resource, .. } = &self.place;
        if let Some(kind) = self.api.cluster.kind(group, version, resource) {
            self.fits(kind)?;
            return match Subresource::named(&self.place.subresource).filter(|one| kind.has(*one)) {
                Some(subresource) => self.below(kind, subresource, &head.headers, body).await,
                None if self.place.subresource.is_empty() => self.kind(kind, &head.headers, body).await,
                None => Err(Status::no_such_path()),
            };
        }
        if self.place.version == "v1"
            && reviews::KINDS.iter().any(|kind| kind.group == *group && kind.plural == *resource)
        {
            return self.review(&head.headers, body).await;
        }
        if (group.as_str(), version.as_str()) == (metrics::GROUP, metrics::VERSION) {
            return self.measure().await;
        }
        // A group that is not served at all is no part of the API.
        let known = group.is_empty()
            || self.api.cluster.kinds().any(|kind| kind.group == *group && kind.version == *version);
        if known { Err(Status::no_such_path()) } else { Ok(super::nowhere()) }
    }

    /// That the path is one of the kind.
    fn fits(&self, kind: &Kind) -> Result<(), Status> {
        let Place { namespace, name, rest, .. } = &self.place;
        if !rest.is_empty() || (!kind.namespaced() && !namespace.is_empty()) {
            return Err(Status::no_such_path());
        }
        if kind.namespaced() && namespace.is_empty() {
            if !name.is_empty() {
                return Err(Status::no_such_path());
            }
            if !matches!(self.verb, "list" | "watch") {
                return Err(Status::method_not_allowed());
            }
        }
        Ok(())
    }

    async fn kind(
        &self,
        kind: &'static Kind,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Response<Body>, Status> {
        let allowed = |verb: Verb| kind.verbs.contains(&verb);
        let named = !self.place.name.is_empty();
        match self.verb {
            "get" if allowed(Verb::Get) => self.get(kind, headers),
            "list" if allowed(Verb::List) => self.list(kind, headers),
            "watch" if allowed(Verb::Watch) => self.watch(kind, headers),
            "create" if allowed(Verb::Create) && !named => self.create(kind, headers, body).await,
            "update" if allowed(Verb::Update) && named => self.update(kind, None, headers, body).await,
            "patch" if allowed(Verb::Patch) && named => self.patch(kind, None, headers, body).await,
            "delete" if allowed(Verb::Delete) => self.delete(kind, headers, body).await,
            "deletecollection" if allowed(Verb::DeleteCollection) => {
                self.delete_collection(kind, headers, body).await
            }
            _ => Err(Status::method_not_allowed()),
        }
    }

    async fn below(
        &self,
        kind: &'static Kind,
        subresource: Subresource,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Response<Body>, Status> {
        let verb = if self.verb == "watch" || self.verb == "list" { "get" } else { self.verb };
        if self.place.name.is_empty() || !super::discovery::verbs(subresource).contains(&verb) {
            return Err(Status::method_not_allowed());
        }
        match subresource {
            Subresource::Binding => self.bind(kind, headers, body).await,
            Subresource::Eviction => self.evict(kind, headers, body).await,
            Subresource::Token => {
                let value = read::body(headers, body).await?.value()?;
                let Place { namespace, name, .. } = &self.place;
                let token = tokens::request(&self.api.cluster, &self.api.access, namespace, name, value)?;
                Ok(reply::json(201, &token))
            }
            Subresource::Status
            | Subresource::EphemeralContainers
            | Subresource::Finalize
            | Subresource::Resize => match verb {
                "get" => self.get(kind, headers),
                "patch" => self.patch(kind, Some(subresource), headers, body).await,
                _ => self.update(kind, Some(subresource), headers, body).await,
            },
            Subresource::Scale => self.scale(kind, verb, headers, body).await,
            _ => Err(Status::no_such_path()),
        }
    }

    async fn scale(
        &self,
        kind: &'static Kind,
        verb: &str,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Response<Body>, Status> {
        negotiate::objects(headers, false)?;
        let Place { namespace, name, .. } = &self.place;
        let cluster = &self.api.cluster;
        let write = self.write("UpdateOptions")?;
        let object = match verb {
            "get" => cluster.get(kind, namespace, name)?,
            "patch" => {
                let patch = read::body(headers, body).await?.patch()?;
                let scaled = scale::patched(&scale::of(&cluster.get(kind, namespace, name)?), &patch)?;
                let put = |object: &mut Value| scale::put(kind, object, &scaled);
                cluster.modify(kind, namespace, name, None, &write, put).await?
            }
            _ => {
                let scaled = read::body(headers, body).await?.value()?;
                let put = |object: &mut Value| scale::put(kind, object, &scaled);
                cluster.modify(kind, namespace, name, None, &write, put).await?
            }
        };
        Ok(reply::json(200, &scale::of(&object)))
    }

    fn shape(&self, headers: &HeaderMap) -> Result<Shape, Status> {
        let form = negotiate::objects(headers, false)?;
        let include = table::include(&self.query)?;
        let gzip = headers.get_all(header::ACCEPT_ENCODING).iter().any(|value| {
            value.to_str().is_ok_and(|value| value.split(',').any(|one| one.trim().starts_with("gzip")))
        });
        Ok(Shape { form, include, gzip })
    }

    fn get(&self, kind: &'static Kind, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        let shape = self.shape(headers)?;
        let object = self.api.cluster.get(kind, &self.place.namespace, &self.place.name)?;
        Ok(reply::object(200, &object, shape))
    }

    fn list(&self, kind: &'static Kind, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        let shape = self.shape(headers)?;
        let options = self.query.list()?;
        let list = self.api.cluster.list(kind, self.namespace(), &options)?;
        reply::list(kind, list, shape)
    }

    fn watch(&self, kind: &'static Kind, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        let shape = self.shape(headers)?;
        let mut options = self.query.watch()?;
        if !self.place.name.is_empty() {
            options.fields = crate::FieldSelector::equal("metadata.name", &self.place.name);
        }
        options.timeout = options.timeout.or_else(|| Some(LONGEST + LONGEST.mul_f64(chance())));
        match self.api.cluster.watch(kind, self.namespace(), &options) {
            Ok(watch) => Ok(watching::watch(watch, shape)),
            // A history that is gone is told in the stream, as by Kubernetes.
            Err(status) if status.code == 410 => {
                let mut line = Vec::new();
                table::write(&json!({"type": "ERROR", "object": status.to_value()}), &mut line);
                line.push(b'\n');
                Ok(reply::bytes(200, "application/json", line))
            }
            Err(status) => Err(status),
        }
    }

    async fn create(
        &self,
        kind: &'static Kind,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Response<Body>, Status> {
        let shape = self.shape(headers)?;
        let write = self.write("CreateOptions")?;
        let read = read::body(headers, body).await?;
        let (draft, warnings) = read.object(kind, write.validation)?;
        write.warnings.extend(warnings);
        let object = self.api.cluster.create(kind, &self.place.namespace, draft, &write).await;
        self.warned(object.map(|object| reply::object(201, &object, shape)), &write.warnings)
    }

    async fn update(
        &self,
        kind: &'static Kind,
        subresource: Option<Subresource>,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Response<Body>, Status> {
        let shape = self.shape(headers)?;
        let write = self.write("UpdateOptions")?;
        let read = read::body(headers, body).await?;
        let (draft, warnings) = read.object(kind, write.validation)?;
        write.warnings.extend(warnings);
        let Place { namespace, name, .. } = &self.place;
        let own = draft.value["metadata"]["name"].as_str().unwrap_or_default();
        if own.is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        let there = !kind.create_on_update || self.api.cluster.get(kind, namespace, name).is_ok();
        let object = self.api.cluster.update(kind, namespace, name, subresource, draft, &write).await;
        let code = if there { 200 } else { 201 };
        self.warned(object.map(|object| reply::object(code, &object, shape)), &write.warnings)
    }

    async fn patch(
        &self,
        kind: &'static Kind,
        subresource: Option<Subresource>,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Response<Body>, Status> {
        let shape = self.shape(headers)?;
        let write = self.write("PatchOptions")?;
        let patch = read::body(headers, body).await?.patch()?;
        let Place { namespace, name, .. } = &self.place;
        let object = self.api.cluster.patch(kind, namespace, name, subresource, &patch, &write).await;
        self.warned(object.map(|object| reply::object(200, &object, shape)), &write.warnings)
    }

    async fn delete(
        &self,
        kind: &'static Kind,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Response<Body>, Status> {
        let shape = self.shape(headers)?;
        let value = read::body(headers, body).await?.value()?;
        let (options, write) = self.deletion(&value)?;
        let Place { namespace, name, .. } = &self.place;
        let deletion = self.api.cluster.delete(kind, namespace, name, &options, &write).await?;
        Ok(match deletion {
            Deletion::Gone(object) if !kind.returns_deleted => {
                let details = Details {
                    name: name.clone(),
                    group: kind.group.to_owned(),
                    kind: kind.plural.to_owned(),
                    uid: object.uid(),
                    ..Details::default()
                };
                reply::json(200, &Status::success(&details))
            }
            Deletion::Gone(object) | Deletion::Pending(object) => reply::object(200, &object, shape),
        })
    }

    async fn delete_collection(
        &self,
        kind: &'static Kind,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Response<Body>, Status> {
        let shape = self.shape(headers)?;
        let value = read::body(headers, body).await?.value()?;
        let (options, write) = self.deletion(&value)?;
        let which = self.query.list()?;
        let cluster = &self.api.cluster;
        let items = cluster.delete_collection(kind, self.namespace(), &which, &options, &write).await?;
        let list = crate::List {
            items,
            revision: cluster.store().revision(),
            continued: String::new(),
            remaining: None,
        };
        reply::list(kind, list, shape)
    }

    async fn bind(
        &self,
        kind: &'static Kind,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Response<Body>, Status> {
        let write = self.write("CreateOptions")?;
        let binding = read::body(headers, body).await?.value()?;
        let Place { namespace, name, .. } = &self.place;
        self.api.cluster.update(kind, namespace, name, Some(Subresource::Binding), binding, &write).await?;
        Ok(reply::json(201, &done(201)))
    }

    async fn evict(
        &self,
        kind: &'static Kind,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Response<Body>, Status> {
        let eviction = read::body(headers, body).await?.value()?;
        let Place { namespace, name, .. } = &self.place;
        let named = eviction["metadata"]["name"].as_str().unwrap_or_default();
        if named != name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let (options, mut write) = self.deletion(&eviction["deleteOptions"])?;
        write.dry_run |= self.query.dry_run("CreateOptions")?;
        self.api.cluster.delete(kind, namespace, name, &options, &write).await?;
        Ok(reply::json(201, &done(201)))
    }

    async fn review(&self, headers: &HeaderMap, body: Incoming) -> Result<Response<Body>, Status> {
        negotiate::objects(headers, true)?;
        if self.verb != "create" || !self.place.name.is_empty() {
            return Err(Status::method_not_allowed());
        }
        let value = read::body(headers, body).await?.value()?;
        let Place { group, resource, namespace, .. } = &self.place;
        let answer = reviews::create(&self.api.access, &self.user, group, resource, namespace, value);
        answer.unwrap_or_else(|| Err(Status::no_such_path())).map(|answer| reply::json(201, &answer))
    }

    async fn measure(&self) -> Result<Response<Body>, Status> {
        let Place { resource, namespace, name, subresource, .. } = &self.place;
        if !subresource.is_empty() || (resource == "nodes" && !namespace.is_empty()) {
            return Err(Status::no_such_path());
        }
        if !matches!(self.verb, "get" | "list") {
            return Err(Status::method_not_allowed());
        }
        let options = self.query.list()?;
        metrics::read(self.api, resource, namespace, name, &options)
            .await
            .map(|value| reply::json(200, &value))
    }

    /// The namespace asked for; None for all.
    fn namespace(&self) -> Option<&str> {
        Some(self.place.namespace.as_str()).filter(|namespace| !namespace.is_empty())
    }

    fn write(&self, options: &str) -> Result<Write, Status> {
        Ok(Write {
            user: self.user.clone(),
            dry_run: self.query.dry_run(options)?,
            field_manager: self.query.text("fieldManager").to_owned(),
            validation: self.query.validation(options)?,
            warnings: Warnings::default(),
        })
    }

    /// The options of a deletion, from the body or the query.
    fn deletion(&self, body: &Value) -> Result<(DeleteOptions, Write), Status> {
        let number = |text: &str| text.parse::<i64>().ok();
        let asked = |field: &str| body["preconditions"][field].as_str().filter(|text| !text.is_empty());
        let orphan = body["orphanDependents"].as_bool();
        let propagation =
            body["propagationPolicy"].as_str().unwrap_or_else(|| self.query.text("propagationPolicy"));
        let propagation = match (orphan, query::propagation(propagation)?) {
            (None, propagation) => propagation,
            (Some(true), None) => Some(crate::Propagation::Orphan),
            (Some(false), None) => Some(crate::Propagation::Background),
            (Some(_), Some(_)) => {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                let policy = body["propagationPolicy"].clone();
                let error = crate::FieldError::invalid("propagationPolicy", policy, why);
                return Err(Status::invalid_named("meta.k8s.io", "DeleteOptions", "", &[error]));
            }
        };
        let options = DeleteOptions {
            grace: body["gracePeriodSeconds"]
                .as_i64()
                .or_else(|| number(self.query.text("gracePeriodSeconds"))),
            uid: asked("uid").map(str::to_owned),
            version: asked("resourceVersion").and_then(|text| text.parse().ok()),
            propagation,
        };
        let listed = body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let dry_run = query::dry_run(listed, "DeleteOptions")? || self.query.dry_run("DeleteOptions")?;
        let write = Write { dry_run, validation: Strictness::Ignore, ..Write::by(self.user.clone()) };
        Ok((options, write))
    }

    /// The answer with its warnings; these come with refusals, too.
    fn warned(
        &self,
        result: Result<Response<Body>, Status>,
        warnings: &Warnings,
    ) -> Result<Response<Body>, Status> {
        let mut response = result.unwrap_or_else(|status| reply::status(&status));
        reply::warn(response.headers_mut(), warnings.take());
        Ok(response)
    }
}

/// What is answered where there is nothing to tell.
fn done(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
}

/// A number from zero to one, not to be guessed by many watches in the same way.
fn chance() -> f64 {
    let mut byte = [0_u8; 2];
    let _ = aws_lc_rs::rand::fill(&mut byte);
    f64::from(u16::from_le_bytes(byte)) / f64::from(u16::MAX)
}
