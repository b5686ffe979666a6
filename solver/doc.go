// Package solver reconstructs images from damaged or incomplete measurements with a diffusion model as prior.
//
// A measurement is y = A(x) + sigma n, with images x in [-1,1]. Spin alternates three cheap things: the denoiser D, run
// forwards only; a correction of its clean estimate by the operator's gradient; and fresh noise. It never differentiates
// the network.
//
//	op, err := solver.NewDownsample(device, 256, 256, 4)
//	p := solver.Problem{Operator: op, Y: small, Sigma: 0.05}
//	r, err := solver.Spin(ctx, p, denoiser, solver.Settings{})
//	pixels, err := r.X0.Floats()
//
// # Where the formulas are
//
//	abar(t), s(t) = sqrt((1-abar)/abar)                            Schedule.AlphaBar, NoiseToSignal
//	t_i = round(lo + (hi-lo) u_i^power)                            Grid
//	D(x,t) = clip((x - sqrt(1-abar) eps(x,t)) / sqrt(abar))        FromModel
//	x = sqrt(abar*) g + sqrt(1-abar*) n                            run.begin
//	x0 = argmin 1/2 |A(x)-y|^2 + rho/2 |x-D(x,t)|^2                Correct
//	rho = lam max(sigma, floor)^2 abar/(1-abar)                    run.rho
//	x = sqrt(b) x0 + sqrt(1-b-s2) e + sqrt(s2) n                   run.advance
//	the loops of phase 1 and 2                                     run.spin
//	z0 = E(correct(Dec(z0)))                                       run.correct
//	DDIM, DDPM, PNDM, DPM-Solver++                                 Transition, stepper.advance
//	x = n; x0 = D(x,t); x = transition(x, x0)                      Generate
//	DiffPIR, DDNM+, DDRM, RED-diff, DAPS, dps-approx               DiffPIR, DDNM, DDRM, REDDiff, DAPS, DPSApprox
//	several runs, of which the data choose                         restart
//	tstar, K1, P, lam by task                                      Defaults, LatentDefaults
//
// The correction is computed by the operator's closed form (Proximal), conjugate gradients with a preconditioner
// (Preconditioner) or without, Nesterov's accelerated gradient, or Adam: see Method. All of it runs on the device of the measurement, without a trip to the host.
//
// # Latent priors
//
// With Settings.FirstStage, an autoencoder, the denoiser works on latents while operators stay as they are, in pictures.
// Only corrected steps decode and encode, and nothing is differentiated but the operator. Every makes them rare, Final
// corrects the last picture once more, and Result tells the calls and the seconds of encoder and decoder. Sizes that the
// networks do not take are mirrored outwards as pictures.
//
// # Operators
//
// This package has Denoise, Gray, Inpaint, Downsample, Blur; Phase, MRI, CT, BlockSensing and SinglePixel, which measure
// what is no picture; and Compose to chain them. Any type with Apply and VJP is an
// operator too; what else it can tell (a closed form, a first guess, a Lipschitz constant, the size of its images) it
// tells by the small interfaces in operator.go. Spec describes an operator apart from a device, and Measurement is a file
// that holds what was measured together with it.
//
// EstimateNoise and EstimateBlur find what a picture does not say of itself, its noise and the kernel of its blur.
//
// # Rules
//
//   - Squared norms are sums over one image. Nothing that happens to an image depends on the others of its batch.
//   - The unit of cost is one call of the denoiser; Result.Calls reports it.
//   - Random numbers come from NewNoise(seed), addressed by image and draw: the same seed gives the same images on the
//     same device, alone or in a batch.
//   - Settings{} means the published defaults of the task.
//   - Exported functions that return an error return misuse as one; it is a *tensor.Error.
//   - Operators hold memory of their device from their making to their Free; do not make them inside a tensor bracket
//     that closes while they are in use.
package solver
