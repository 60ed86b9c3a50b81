"""What the tests of deploy/ share: building, finding things in what comes out, and walking it."""
