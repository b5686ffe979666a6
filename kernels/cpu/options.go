package cpu

// Options chooses how the backend runs. The zero value is right for most programs.
type Options struct {
	Threads int    // 0: GOMAXPROCS, which follows the limits of a container
	Level   string // "": the best that the processor has; otherwise one of Levels(), for tests and measurements
}
