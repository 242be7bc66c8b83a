// Command cfwall keeps the web ports of a host behind Cloudflare closed to
// everybody else.
package main
