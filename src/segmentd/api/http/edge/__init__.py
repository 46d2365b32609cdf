"""The layers between the network and a handler: connection, middleware, guard, problem documents."""
