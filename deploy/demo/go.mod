module github.com/cloakroom/cloakroom/deploy/demo

go 1.26.8

require (
	github.com/MicahParks/keyfunc/v3 v3.9.0
	github.com/alicebob/miniredis/v2 v2.40.0
	github.com/cloakroom/cloakroom v0.0.0
	github.com/golang-jwt/jwt/v5 v5.3.1
	go.uber.org/goleak v1.3.0
)

require (
	github.com/MicahParks/jwkset v0.11.3 // indirect
	github.com/yuin/gopher-lua v1.1.1 // indirect
	golang.org/x/time v0.16.0 // indirect
)

replace github.com/cloakroom/cloakroom => ../..
