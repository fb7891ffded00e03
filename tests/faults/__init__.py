"""What goes wrong around a running sidecar. `README.md` has every row and the test that shows what happens then."""
