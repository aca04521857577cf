use super::*;

fn route(name: &str, hosts: &[&str]) -> FunctionRoute {
    FunctionRoute {
        id: name.parse().unwrap(),
        hosts: hosts.iter().map(ToString::to_string).collect(),
        held: BTreeMap::new(),
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

/// Would fail if somebody took a host from who has it by claiming it with a function that is older, or if gateways that learn
/// of the functions in another order, as after a restart, gave it to another.
#[test]
fn a_host_stays_with_who_has_it() {
    let mut old = route("a/old", &["h.example"]);
    let mut young = route("b/young", &["h.example"]);
    (old.created, young.created) = (1, 2);
    young.held = BTreeMap::from([("h.example".to_owned(), 3_000_000)]);
    for order in [[&old, &young], [&young, &old]] {
        let routes = Routes::new(&[], &[]);
        for route in order {
            routes.insert(route.clone());
        }
        assert_eq!(found(&routes, "h.example", "/"), some("b/young", false));
        assert_eq!(routes.insert(old.clone()), ["h.example"]);
    }
    let routes = Routes::new(&[], &[]);
    routes.insert(young.clone());
    routes.insert(old);
    young.hosts.clear();
    routes.insert(young);
    assert_eq!(found(&routes, "h.example", "/"), some("a/old", false));
}

/// Would fail if a function got what others are asked by their paths, at a host that leads to all of them.
#[test]
fn a_host_that_leads_to_every_function_is_nobodys() {
    const HOST: &str = "apps.example";
    let routes = Routes::new(&[], &[HOST.to_owned()]);
    let mut thief = route("evil/thief", &["Apps.example"]);
    thief.held = [(HOST.to_owned(), 1)].into();
    assert_eq!(routes.insert(thief), [HOST]);
    routes.insert(route("shop/pay", &[]));
    for host in [HOST, "Apps.Example:443", "apps.example."] {
        assert_eq!(found(&routes, host, "/shop/pay/"), some("shop/pay", true));
        assert_eq!(found(&routes, host, "/"), None, "{host}");
    }
}

/// Would fail if a function got the names of one that isn't there yet, or is being made anew, from another namespace; or if its
/// short name were another's while it is there.
#[test]
fn own_names_are_nobody_elses() {
    let routes = Routes::new(&["fn.example".to_owned(), "svc".to_owned()], &[]);
    let below = ["pay.shop.fn.example", "pay.shop.svc"];
    let names = [below[0], below[1], "pay.shop"];
    let mut thief = route("evil/thief", &names);
    thief.held = names.map(|host| (host.to_owned(), 1)).into();
    assert_eq!(routes.insert(thief), below);
    assert_eq!(found(&routes, "pay.shop", "/"), some("evil/thief", false));
    for host in below {
        assert_eq!(found(&routes, host, "/"), None, "{host}");
    }
    routes.insert(route("shop/other", &below));
    assert_eq!(found(&routes, below[0], "/"), some("shop/other", false));
    routes.insert(route("shop/pay", &[]));
    for host in names {
        assert_eq!(found(&routes, host, "/"), some("shop/pay", false), "{host}");
    }
    routes.remove(&"shop/pay".parse().unwrap());
    assert_eq!(found(&routes, below[1], "/"), some("shop/other", false));
}
