use super::*;

fn route(name: &str, hosts: &[&str]) -> FunctionRoute {
    FunctionRoute {
        id: name.parse().unwrap(),
        hosts: hosts.iter().map(ToString::to_string).collect(),
        created: 0,
        limits: Limits::default(),
    }
}

/// Who a request is for, and whether its path said so.
fn found(routes: &Routes, host: &str, path: &str) -> Option<(String, bool)> {
    let request = http::Request::get(path).header(HOST, host);
    let parts = request.body(()).unwrap().into_parts().0;
    let found = routes.find(&parts).ok()?;
    Some((found.function.id.to_string(), found.by_path))
}

fn some(name: &str, by_path: bool) -> Option<(String, bool)> {
    Some((name.to_owned(), by_path))
}

/// Would fail if every request that names its function by the path were looked up anew.
#[test]
fn a_path_is_remembered_beside_its_host() {
    let routes = Routes::new(&[], &[]);
    routes.insert(route("a/b", &[]));
    assert_eq!(found(&routes, "gateway", "/a/b/c"), some("a/b", true));
    let edition = routes.edition.load(Ordering::Relaxed);
    let recalled = |host, id| recall::find(edition, host, id).is_some();
    assert!(recalled("gateway", Some("a/b")));
    assert!(!recalled("gateway", Some("a/c")) && !recalled("other", Some("a/b")));
    assert!(!recalled("gateway", None), "the host is nobody's");
}

/// Would fail if one function were taken for another that a thread remembers, or a host's for a path's.
#[test]
fn what_is_remembered_is_told_apart() {
    let routes = Routes::new(&[], &[]);
    routes.insert(route("a/b", &["h"]));
    routes.insert(route("a/c", &[]));
    for _ in 0..2 {
        assert_eq!(found(&routes, "gateway", "/a/b"), some("a/b", true));
        assert_eq!(found(&routes, "gateway", "/a/c"), some("a/c", true));
        assert_eq!(found(&routes, "h", "/a/c"), some("a/b", false));
        assert_eq!(found(&routes, "gateway", "/a/d"), None);
        assert_eq!(found(&routes, "gateway", "/"), None);
    }
}

/// Would fail if what a thread remembers of a path outlived a change of what it leads to.
#[test]
fn a_change_is_seen_by_whoever_comes_by_the_path() {
    let routes = Routes::new(&[], &[]);
    let ask = || found(&routes, "h", "/a/b");
    assert_eq!(ask(), None);
    routes.insert(route("a/b", &[]));
    assert_eq!(ask(), some("a/b", true));
    routes.insert(route("a/c", &["h"]));
    assert_eq!(ask(), some("a/c", false));
    routes.insert(route("a/c", &[]));
    assert_eq!(ask(), some("a/b", true));
    let parts = http::Request::get("/a/b").header(HOST, "h").body(());
    let parts = parts.unwrap().into_parts().0;
    let first = routes.find(&parts).ok().unwrap().function;
    routes.remove(&"a/b".parse().unwrap());
    assert_eq!(ask(), None);
    routes.insert(route("a/b", &[]));
    let second = routes.find(&parts).ok().unwrap().function;
    assert!(!Arc::ptr_eq(&first, &second));
}
