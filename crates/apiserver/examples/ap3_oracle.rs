//! Throw-away: validates objects of stdin.
use serde_json::{Value, json};
use vaquita_apiserver::kinds::KINDS;
fn main() {
    let all: Vec<Value> = serde_json::from_reader(std::io::stdin()).unwrap();
    let out: Vec<Value> = all
        .into_iter()
        .map(|mut one| {
            let name = one["kind"].as_str().unwrap().to_owned();
            let version = one["apiVersion"].as_str().unwrap().to_owned();
            let kind = KINDS.iter().find(|kind| kind.name == name && kind.api_version() == version).unwrap();
            let old = one.as_object_mut().unwrap().shift_remove("__old");
            let sub = one.as_object_mut().unwrap().shift_remove("__sub");
            let sub = sub.and_then(|sub| vaquita_apiserver::Subresource::named(sub.as_str().unwrap()));
            (kind.default)(&mut one);
            (kind.prepare)(&mut one, old.as_ref(), sub);
            let errors = (kind.validate)(&one, old.as_ref(), sub);
            json!({ "errors": errors.iter().map(ToString::to_string).collect::<Vec<_>>(), "object": one })
        })
        .collect();
    println!("{}", serde_json::to_string(&out).unwrap());
}
