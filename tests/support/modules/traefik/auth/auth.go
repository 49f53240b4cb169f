// Package auth stands in for a fork of this module that is not to be had everywhere: what Traefik's middlewares for
// basic and digest authentication call. It lets nobody in.
package auth

import "net/http"

// SecretProvider would return a user's secret.
type SecretProvider func(user, realm string) string

// CheckSecret takes no password.
func CheckSecret(password, secret string) bool { return false }

// BasicAuth refuses.
type BasicAuth struct {
	Realm   string
	Secrets SecretProvider
}

// RequireAuth answers 401.
func (*BasicAuth) RequireAuth(w http.ResponseWriter, r *http.Request) { refuse(w) }

// DigestAuth refuses.
type DigestAuth struct{}

// NewDigestAuthenticator returns one that knows nobody.
func NewDigestAuthenticator(realm string, secrets SecretProvider) *DigestAuth { return &DigestAuth{} }

// CheckAuth finds no user.
func (*DigestAuth) CheckAuth(r *http.Request) (string, *string) { return "", nil }

// RequireAuth answers 401.
func (*DigestAuth) RequireAuth(w http.ResponseWriter, r *http.Request) { refuse(w) }

// RequireAuthStale answers 401.
func (*DigestAuth) RequireAuthStale(w http.ResponseWriter, r *http.Request) { refuse(w) }

// DigestAuthParams reads nothing.
func DigestAuthParams(authorization string) map[string]string { return nil }

func refuse(w http.ResponseWriter) { w.WriteHeader(http.StatusUnauthorized) }
