#!/bin/bash
# plaudit on several nodes of a Slurm cluster: sbatch examples/cluster/slurm.sh
#
# Slurm sends SIGTERM five minutes before the time limit, or when it preempts the job. The job then saves a checkpoint,
# stops, and is queued again until it has finished. Adapt the directives, OUT and what follows `plaudit run`.
#SBATCH --job-name=plaudit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

OUT=${OUT:-$PWD/runs/slurm}  # on a file system that all nodes share
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
resume=$(test -f "$OUT/config.toml" && echo --resume)

# How long torchrun lets the processes finish a step and save; 30 s before torch 2.12.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=270
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / 8))
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # since Slurm 22.05, srun does not take it from sbatch

srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node 8 --max-restarts 3 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:29500" \
    -m plaudit run --model HuggingFaceTB/SmolLM2-135M-Instruct --out "$OUT" $resume
code=$?

# RUN/ended.json says why an unfinished stage ended.
if [ $code -ne 0 ] && grep -qs '"how": "stopped"' "$OUT/ended.json"; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
