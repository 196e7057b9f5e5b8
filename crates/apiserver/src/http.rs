//! The API over HTTP.

mod body;
mod catalog;
mod discovery;
mod negotiate;
mod openapi;
mod path;
mod query;
mod read;
mod reply;
mod scale;
mod server;
mod table;
mod verbs;
mod watching;

use std::sync::Arc;

use http::{Method, Request, Response};
use hyper::body::Incoming;

use crate::access::{Attributes, Peer};
use crate::{Access, Cluster, Node, Status, User, backup, tokens};

pub use body::Body;
use path::{Place, Route};
pub(crate) use query::Query;
pub use server::{Config, serve};

/// All that requests are answered with.
#[derive(Clone, Debug)]
pub struct Api {
    /// The objects.
    pub cluster: Cluster,
    /// Who may.
    pub access: Access,
    /// The machine with the pods.
    pub node: Arc<dyn Node>,
}

/// Answers one request. What goes wrong is an answer, too.
pub async fn handle(api: &Api, peer: Option<&Peer>, request: Request<Incoming>) -> Response<Body> {
    answer(api, peer, request).await.unwrap_or_else(|status| reply::status(&status))
}

async fn answer(
    api: &Api,
    peer: Option<&Peer>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let user = api.access.authenticate(request.headers(), peer)?;
    let uri = request.uri().clone();
    let query = Query::parse(uri.query().unwrap_or_default());
    match path::parse(uri.path()) {
        Route::Resource(place) => {
            let verb = verbs::verb(request.method(), &place, &query);
            allow_resource(api, &user, verb, &place, &query)?;
            let call = verbs::Call { api, user, place, query, verb };
            call.answer(request).await
        }
        route => {
            allow_path(api, &user, request.method(), uri.path())?;
            if request.method() != Method::GET && request.method() != Method::HEAD {
                return Err(Status::method_not_allowed());
            }
            if uri.path() == backup::PATH {
                return backup::serve(&api.cluster).await;
            }
            other(api, &route, uri.path(), &request)
        }
    }
}

/// What is no resource.
fn other(
    api: &Api,
    route: &Route,
    path: &str,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let headers = request.headers();
    match route {
        Route::Version => Ok(reply::json(200, &catalog::version())),
        Route::Health(_) => Ok(reply::text(200, "ok")),
        Route::CoreVersions => catalog::all(api, headers, true),
        Route::Groups => catalog::all(api, headers, false),
        Route::Group(group) => Ok(catalog::group(api, group)),
        Route::GroupVersion(group, version) => Ok(catalog::group_version(api, group, version)),
        Route::OpenApi(path) => catalog::schemas(api, headers, path),
        _ if path == "/.well-known/openid-configuration" => Ok(reply::json(200, &tokens::discovery())),
        _ if path == "/openid/v1/jwks" => Ok(reply::json(200, &tokens::keys(&api.access))),
        _ => Ok(nowhere()),
    }
}

/// What a path gets that is none of the API.
fn nowhere() -> Response<Body> {
    reply::text(404, "404 page not found\n")
}

fn allow_resource(api: &Api, user: &User, verb: &str, place: &Place, query: &Query) -> Result<(), Status> {
    // A list of one by its name is a right to that one.
    let selected = query.text("fieldSelector").parse().ok();
    let named = selected.as_ref().and_then(|fields: &crate::FieldSelector| fields.exact("metadata.name"));
    let name = if place.name.is_empty() { named.unwrap_or_default() } else { &place.name };
    let namespace = match (place.group.as_str(), place.resource.as_str()) {
        ("", "namespaces") => &place.name,
        _ => &place.namespace,
    };
    api.access.authorize(
        user,
        &Attributes {
            verb,
            group: &place.group,
            version: &place.version,
            resource: &place.resource,
            subresource: &place.subresource,
            namespace,
            name,
            path: "",
        },
    )
}

fn allow_path(api: &Api, user: &User, method: &Method, path: &str) -> Result<(), Status> {
    let verb = method.as_str().to_ascii_lowercase();
    api.access.authorize(user, &Attributes { verb: &verb, path, ..Attributes::default() })
}
