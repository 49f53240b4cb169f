// Package ext stands in for a folder of Traefik's repository that its module leaves out: what it adds to HTTP
// configurations and to routers, which is nothing.
package ext

// HTTP adds nothing to an HTTP configuration.
type HTTP struct{}

// Router adds nothing to a router.
type Router struct{}
