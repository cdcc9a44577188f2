#!/bin/bash
# sbatch docs/ray/slurm.sh: one Ray worker a node, and the sweep on the first of them.
#SBATCH --job-name=tpprof-sweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --time=04:00:00

set -euo pipefail

# One token for all that this job starts: without it, whoever reaches the port runs code here.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | base64 --wrap=0)

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | cut -d' ' -f1)
# srun takes over neither of them from sbatch everywhere; --overlap lets the sweep share the node.
step=(srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --gpus-per-node=4)
ray=(ray start --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus=4 --block)

"${step[@]}" --nodelist="$head" "${ray[@]}" --head --node-ip-address="$address" --port=6379 &
sleep 20 # until the head answers
for node in "${nodes[@]:1}"; do
    "${step[@]}" --nodelist="$node" "${ray[@]}" --address="$address:6379" &
done
sleep 20

# In a folder that all nodes see, so that --resume goes on inside a comparison that was broken off.
"${step[@]}" --nodelist="$head" tpprof sweep fastv visionzip --keep 640,320 \
    --model llava-next-7b,qwen2-vl-7b --ray auto --out runs/budgets --resume
