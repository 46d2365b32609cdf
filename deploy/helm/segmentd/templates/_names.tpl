{{- define "segmentd.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" (.Release.Name | trunc 31 | trimSuffix "-") .Chart.Name }}{{ end }}
{{- end }}

{{- define "segmentd.selector" -}}
app.kubernetes.io/name: segmentd
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: node
{{- end }}

{{- define "segmentd.common" -}}
app.kubernetes.io/name: segmentd
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "segmentd.labels" -}}
{{ include "segmentd.common" . }}
app.kubernetes.io/component: node
{{- end }}

{{- define "segmentd.image" -}}
{{- $image := .Values.image -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}
