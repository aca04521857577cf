module wisp.test/cluster/testserver

go 1.26.0
