// Command demo shows who reaches a web host before and after cfwall starts,
// with real packets between network namespaces of its own.
package main
