package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/solver"
)

// method is a way to reconstruct: a value of --method.
type method struct {
	name, title string
	latent      bool // whether it knows first stages
	run         func(ctx context.Context, p solver.Problem, den solver.Denoiser, s solver.Settings) (*solver.Result, error)
}

// methods are Spin and its rivals, which have only the calls and the options of its settings.
var methods = []*method{
	{"spin", "Spin", true, solver.Spin},
	{"diffpir", "DiffPIR", false, func(ctx context.Context, p solver.Problem, den solver.Denoiser, s solver.Settings) (*solver.Result, error) {
		return solver.DiffPIR(ctx, p, den, solver.DiffPIRSettings{N: s.Calls, Options: s.Options})
	}},
	{"ddnm", "DDNM+", false, func(ctx context.Context, p solver.Problem, den solver.Denoiser, s solver.Settings) (*solver.Result, error) {
		return solver.DDNM(ctx, p, den, solver.DDNMSettings{N: s.Calls, Options: s.Options})
	}},
	{"ddrm", "DDRM", false, func(ctx context.Context, p solver.Problem, den solver.Denoiser, s solver.Settings) (*solver.Result, error) {
		return solver.DDRM(ctx, p, den, solver.DDRMSettings{N: s.Calls, Options: s.Options})
	}},
	{"reddiff", "RED-diff", false, func(ctx context.Context, p solver.Problem, den solver.Denoiser, s solver.Settings) (*solver.Result, error) {
		return solver.REDDiff(ctx, p, den, solver.REDDiffSettings{N: s.Calls, Options: s.Options})
	}},
	{"daps", "DAPS", false, func(ctx context.Context, p solver.Problem, den solver.Denoiser, s solver.Settings) (*solver.Result, error) {
		return solver.DAPS(ctx, p, den, solver.DAPSSettings{N: s.Calls, Options: s.Options})
	}},
	{"dps-approx", "dps-approx", false, func(ctx context.Context, p solver.Problem, den solver.Denoiser, s solver.Settings) (*solver.Result, error) {
		return solver.DPSApprox(ctx, p, den, solver.DPSApproxSettings{N: s.Calls, Options: s.Options})
	}},
	{"floor", "First guess", true, func(ctx context.Context, p solver.Problem, _ solver.Denoiser, s solver.Settings) (*solver.Result, error) {
		return solver.Floor(ctx, p, s.Options)
	}},
}

func methodNames() (names []string) {
	for _, m := range methods {
		names = append(names, m.name)
	}
	return names
}

func findMethod(name string) (*method, error) {
	i := slices.IndexFunc(methods, func(m *method) bool { return m.name == name })
	if i < 0 {
		return nil, usagef("method %q is not known: expected %s", name, strings.Join(methodNames(), ", "))
	}
	return methods[i], nil
}

// parameter is a number of Spin that --set changes. at are the places of its value.
type parameter struct {
	name, help string
	at         func(p *solver.Parameters) []any
}

var parameters = []parameter{
	{"tstar", "timestep of phase 1, and where phase 2 starts", func(p *solver.Parameters) []any { return []any{&p.TStar} }},
	{"k1", "denoiser calls in phase 1", func(p *solver.Parameters) []any { return []any{&p.K1} }},
	{"noisy", "start from the operator's first guess as it is, which has the noise of tstar", func(p *solver.Parameters) []any { return []any{&p.Noisy} }},
	{"p", "denoiser calls in phase 2", func(p *solver.Parameters) []any { return []any{&p.P} }},
	{"tlow", "last timestep", func(p *solver.Parameters) []any { return []any{&p.TLow} }},
	{"power", "of the grid of timesteps", func(p *solver.Parameters) []any { return []any{&p.Power} }},
	{"every", "corrections at every Nth step of phase 2", func(p *solver.Parameters) []any { return []any{&p.Every} }},
	{"tend", "no corrections below this timestep", func(p *solver.Parameters) []any { return []any{&p.TEnd} }},
	{"etag", "fresh noise after a corrected step, 0 to 1", func(p *solver.Parameters) []any { return []any{&p.EtaG} }},
	{"etau", "DDIM eta of plain steps, or of --transition ddim", func(p *solver.Parameters) []any { return []any{&p.EtaU} }},
	{"lam", "weight of the denoised picture, both phases", func(p *solver.Parameters) []any { return []any{&p.Lam1, &p.Lam2} }},
	{"lam1", "the same, phase 1", func(p *solver.Parameters) []any { return []any{&p.Lam1} }},
	{"lam2", "the same, phase 2", func(p *solver.Parameters) []any { return []any{&p.Lam2} }},
	{"sdmin", "floor of the noise level in that weight", func(p *solver.Parameters) []any { return []any{&p.SDMin} }},
	{"inner", "how to correct: exact, cg, pcg, fgd or adam, with :STEPS[:RATE]", func(p *solver.Parameters) []any { return []any{&p.Inner1, &p.Inner2} }},
	{"final", "latent priors: correct the last picture once more", func(p *solver.Parameters) []any { return []any{&p.Final} }},
	{"keep", "copy measured pixels into the result where sigma is 0", func(p *solver.Parameters) []any { return []any{&p.Keep} }},
}

// tuning is what a user says about the algorithm. The zero value is Spin with the defaults of the task.
type tuning struct {
	method     *method // nil: Spin
	transition solver.Transition
	changes    []func(p *solver.Parameters)
	deadline   time.Time
}

// apply changes the settings of a run.
func (t tuning) apply(s *solver.Settings) {
	if len(t.changes) > 0 {
		s.Parameters = s.Parameters.Budget(s.Calls)
		for _, change := range t.changes {
			change(&s.Parameters)
		}
		s.Calls = 0
	}
	s.Transition, s.Deadline = t.transition, t.deadline
}

// by is the method to run.
func (t tuning) by() *method {
	if t.method == nil {
		return methods[0]
	}
	return t.method
}

// tuningFlags are the flags of a tuning.
type tuningFlags struct {
	method, transition string
	set                []string
	within             time.Duration
	start              time.Time
	tuning             tuning // from check
}

func (f *tuningFlags) register(c *cobra.Command) {
	f.start = time.Now()
	var names []string
	for _, k := range solver.Transitions() {
		names = append(names, string(k))
	}
	c.Flags().StringVar(&f.method, "method", "spin", "how to reconstruct: "+strings.Join(methodNames(), ", ")+" (the first guess, without a prior); see compare")
	c.Flags().StringVar(&f.transition, "transition", string(solver.Renoise), "how Spin goes from one timestep to the next: "+strings.Join(names, ", "))
	c.Flags().StringSliceVar(&f.set, "set", nil, "change `NAME=VALUE,...` of Spin's settings, which --json prints: "+parameterNames())
	c.Flags().DurationVar(&f.within, "deadline", 0, "be done within this time, for example 10s, with fewer steps where it is short; not before one step")
}

func parameterNames() string {
	var names []string
	for _, p := range parameters {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

func (f *tuningFlags) check(c *cobra.Command) (err error) {
	f.tuning = tuning{transition: solver.Transition(f.transition)}
	if f.tuning.method, err = findMethod(f.method); err != nil {
		return err
	}
	if !slices.Contains(solver.Transitions(), f.tuning.transition) {
		return usagef("--transition %s: expected one of %v", f.transition, solver.Transitions())
	}
	if f.tuning.method != methods[0] && (len(f.set) > 0 || c.Flags().Changed("transition")) {
		return usagef("--set and --transition are Spin's, they do not belong to --method %s", f.method)
	}
	if c.Flags().Changed("deadline") {
		if f.within <= 0 {
			return usagef("--deadline %v: expected a time above 0, for example 10s", f.within)
		}
		f.tuning.deadline = f.start.Add(f.within)
	}
	return f.tuning.read(f.set)
}

// read takes NAME=VALUE pairs.
func (t *tuning) read(set []string) error {
	for _, s := range set {
		name, value, ok := strings.Cut(s, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		i := slices.IndexFunc(parameters, func(p parameter) bool { return p.name == name })
		if !ok || i < 0 {
			return usagef("--set %s: expected NAME=VALUE with one of the names %s", s, parameterNames())
		}
		p := parameters[i]
		for k := range p.at(&solver.Parameters{}) {
			change, err := changeOf(p, k, strings.TrimSpace(value))
			if err != nil {
				return usagef("--set %s: %v (%s)", s, err, p.help)
			}
			t.changes = append(t.changes, change)
		}
	}
	return nil
}

// changeOf parses the value of place k of a parameter.
func changeOf(p parameter, k int, value string) (change func(*solver.Parameters), err error) {
	switch p.at(&solver.Parameters{})[k].(type) {
	case *int:
		v, err := strconv.Atoi(value)
		return func(s *solver.Parameters) { *p.at(s)[k].(*int) = v }, wrong(err, value, "a whole number")
	case *float64:
		v, err := strconv.ParseFloat(value, 64)
		return func(s *solver.Parameters) { *p.at(s)[k].(*float64) = v }, wrong(err, value, "a number")
	case *bool:
		v, err := strconv.ParseBool(value)
		return func(s *solver.Parameters) { *p.at(s)[k].(*bool) = v }, wrong(err, value, "true or false")
	}
	parts := strings.Split(value, ":")
	in := solver.Inner{Method: solver.Method(parts[0])}
	if !slices.Contains([]solver.Method{solver.Exact, solver.CG, solver.PCG, solver.FGD, solver.Adam}, in.Method) || len(parts) > 3 {
		return nil, wrong(strconv.ErrSyntax, value, "exact, cg, pcg, fgd or adam, with :STEPS[:RATE]")
	}
	if len(parts) > 1 {
		if in.Steps, err = strconv.Atoi(parts[1]); err != nil || in.Steps < 1 || in.Steps > 10000 {
			return nil, wrong(strconv.ErrSyntax, parts[1], "1 to 10000 steps")
		}
	}
	if len(parts) > 2 {
		if in.Rate, err = strconv.ParseFloat(parts[2], 64); err != nil || !(in.Rate > 0) {
			return nil, wrong(strconv.ErrSyntax, parts[2], "a rate above 0")
		}
	}
	return func(s *solver.Parameters) { *p.at(s)[k].(*solver.Inner) = in }, nil
}

func wrong(err error, value, want string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%q, expected %s", value, want)
}
